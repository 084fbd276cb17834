"""`drystone bundle`: everything that support asks for, in one file, without secrets."""
