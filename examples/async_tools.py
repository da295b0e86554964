"""Async tools: calls of one reply run beside each other."""

import asyncio

from llama_agent import Agent, tool


@tool(read_only=True)
async def stock_level(product: str) -> int:
    """
    Look up how many pieces of a product are in stock.

    Args:
        product: Name of the product.

    """
    await asyncio.sleep(0.1)  # stands for a request to a warehouse
    return {"lamp": 12, "chair": 3}.get(product.lower(), 0)


async def main() -> None:
    """Ask for the stock of a product."""
    async with Agent(tools=[stock_level]) as agent:
        result = await agent.run_async("What is the stock level of the lamp?")
        print(result.text)


if __name__ == "__main__":
    asyncio.run(main())
