"""`python -m llama_agent` is the command `llama-agent`."""

from llama_agent.cli.main import main

if __name__ == "__main__":
    main()
