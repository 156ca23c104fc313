"""The command line: composes services and sits above them."""
