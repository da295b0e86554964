"""What to do next; knows neither the openai client nor asyncio nor any tool."""
