"""An object's methods as tools: they share its state, so their calls keep the model's order."""

from haystack.tools import Toolset

from llama_agent import Agent, tool


class ShoppingList:
    """A list that a model can write to."""

    def __init__(self) -> None:
        self.items: list[str] = []

    @tool(idempotent=True)
    def add_item(self, item: str) -> str:
        """
        Put an item on the shopping list.

        Args:
            item: What to buy.

        """
        if item not in self.items:
            self.items.append(item)
        return f"{item} is on the list"

    @tool(read_only=True)
    def show_items(self) -> list[str]:
        """Show all items of the shopping list."""
        return self.items


if __name__ == "__main__":
    shopping = ShoppingList()
    with Agent(tools=Toolset([shopping.add_item, shopping.show_items])) as agent:
        print(agent.run('Put the item "oat milk" on the shopping list.').text)
    print(shopping.items)
