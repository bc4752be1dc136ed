"""What the server answers, one theme a module."""
