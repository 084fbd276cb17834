"""The scanner behind the house-style test: it must not be fooled by strings and comments."""

from __future__ import annotations

import pytest

from tests.unit.source_tree import Function, blank_rust_noise, python_functions, rust_functions


@pytest.mark.parametrize(
    "noise",
    [
        "// { fn a() {",
        "/* { /* } */ { */",
        '"fn b() {{"',
        '"escaped \\" {"',
        'r"raw \\"',
        'r#"raw " { "#',
        'br##"x"# {"##',
        "'{'",
        "'\\''",
        "b'{'",
        "'\\u{7b}'",
        '"over\n{ lines"',
    ],
)
def test_comments_and_literals_are_blanked_and_lines_stay(noise):
    blanked = blank_rust_noise(f"a {noise} \nz")
    assert blanked.count("\n") == noise.count("\n") + 1
    assert blanked.split() == ["a", "z"]


def test_lifetimes_are_not_characters():
    assert blank_rust_noise("fn f<'a>(x: &'a str) {}") == "fn f<'a>(x: &'a str) {}"


def test_rust_functions_are_measured_from_signature_to_closing_brace():
    source = (
        "impl A {\n"
        "    fn one(x: [u8; 4]) -> u8 {\n"
        '        let s = "}";\n'
        "        match x { _ => { 1 } }\n"
        "    }\n"
        "}\n"
        "trait T { fn no_body(&self, x: [u8; 2]); }\n"
        "pub fn two() {}\n"
    )
    assert rust_functions(source) == [Function("one", 2, 4), Function("two", 8, 1)]


def test_a_nested_rust_function_counts_on_its_own():
    names = [f.name for f in rust_functions("fn outer() {\n fn inner() {\n }\n}\n")]
    assert names == ["outer", "inner"]


def test_python_functions_are_measured_without_their_decorators():
    source = "@x\n@y\nasync def f(\n    a,\n):\n    return a\n"
    assert python_functions(source) == [Function("f", 3, 4)]
