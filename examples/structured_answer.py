"""An answer that is an object, not a text, made with the help of a tool."""

from typing import Literal

from pydantic import BaseModel, Field

from llama_agent import Agent, tool


@tool(read_only=True)
def reviews_of(product: str) -> list[str]:
    """
    Read what customers wrote of a product.

    Args:
        product: Name of the product.

    """
    return [f"The {product} is bright.", "It broke after a week.", "Too dear."]


class Verdict(BaseModel):
    """What the customers think."""

    mood: Literal["good", "mixed", "bad"]
    complaints: list[str] = Field(description="In a few words each.")


if __name__ == "__main__":
    with Agent(tools=[reviews_of], output_type=Verdict) as agent:
        result = agent.run("What do the customers think of the lamp?")
    if result.output is None:
        print(f"no verdict: {result.stop_reason}")
    else:
        print(result.output.mood, *result.output.complaints, sep="\n- ")
