"""Ready-made tools: the files of one folder, the calculator and the clock."""

from pathlib import Path
from tempfile import TemporaryDirectory

from llama_agent_tools import calculator, clock
from llama_agent_tools.files import Workspace

from llama_agent import Agent

if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        Path(folder, "notes.md").write_text("# Notes\n\nBuy milk.\n")
        files = Workspace(folder)
        # The methods that only read; `tools=[files]` gives those that write as well.
        reading = [files.list_files, files.tree, files.read_file, files.search_files]
        with Agent(tools=[*reading, calculator, clock]) as agent:
            print(agent.run("List the files and folders in the workspace.").text)
