"""The board: what the app, the command line and Python all show."""
