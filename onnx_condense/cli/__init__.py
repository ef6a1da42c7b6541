"""The command line: arguments to options, reports to the terminal."""
