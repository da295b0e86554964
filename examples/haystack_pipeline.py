"""Our agent as a component of a Haystack pipeline."""

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.dataclasses import ChatMessage

from llama_agent import Agent


def word_length(word: str) -> int:
    """
    Count the letters of a word.

    Args:
        word: The word.

    """
    return len(word)


def build() -> Pipeline:
    """A prompt builder that feeds an agent."""
    template = [ChatMessage.from_user('How many letters has the word "{{ word }}"?')]
    pipeline = Pipeline()
    pipeline.add_component("prompt", ChatPromptBuilder(template=template, required_variables="*"))
    pipeline.add_component("agent", Agent(tools=[word_length]))
    pipeline.connect("prompt.prompt", "agent.messages")
    return pipeline


if __name__ == "__main__":
    pipeline = build()
    outputs = pipeline.run({"prompt": {"word": "llama"}})
    print(outputs["agent"]["last_message"].text)
    pipeline.close()
