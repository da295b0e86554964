"""Ready-made tools for llama-agent: each module a set of functions or one small class."""
