"""Python functions become tools, and run."""
