"""Ask another model when one is gone: Haystack's FallbackChatGenerator over two of our generators."""

from haystack.components.generators.chat.fallback import FallbackChatGenerator

from llama_agent import Agent, MetaLlamaChatGenerator, RateLimit, RetryPolicy


def units_left(product: str) -> int:
    """
    Tell how many units of a product are left.

    Args:
        product: Name of the product.

    """
    return {"lamp": 3}.get(product, 0)


# A short patience with the first, so that the second is asked soon. Nothing listens on this port.
first = MetaLlamaChatGenerator(
    api_base_url="http://127.0.0.1:9/v1", model="big-model", retry=RetryPolicy(max_retries=1, max_wait=0.5)
)
# The endpoint in the environment, else the embedded model; asked at most once a second by this process.
second = MetaLlamaChatGenerator(api_base_url=None, rate_limit=RateLimit(requests_per_minute=60))

with Agent(chat_generator=FallbackChatGenerator([first, second]), tools=[units_left]) as agent:
    print(agent.run("How many units of the product lamp are left?").text)
