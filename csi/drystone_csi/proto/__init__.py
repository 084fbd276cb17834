"""The CSI definitions, bare, and what is generated from them."""
