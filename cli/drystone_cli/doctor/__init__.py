"""`drystone doctor`: pure checks over facts, and the thin parts that gather them."""
