"""The command `llama-agent`: one file a command."""
