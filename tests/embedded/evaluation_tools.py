"""Small deterministic tools for evaluating tool calling."""

from typing import Literal


def add_numbers(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def multiply_numbers(a: float, b: float) -> float:
    """Multiply two numbers.

    Args:
        a: The first factor.
        b: The second factor.
    """
    return a * b


def miles_to_kilometers(miles: float) -> float:
    """Convert a distance from miles to kilometers.

    Args:
        miles: The distance in miles.
    """
    return round(miles * 1.609344, 3)


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, str | float]:
    """Get the current weather of a city.

    Args:
        city: The name of the city.
        unit: The temperature unit of the result.
    """
    reports = {
        "paris": ("sunny", 22.0),
        "oslo": ("snowy", -3.0),
        "cairo": ("clear", 34.0),
        "london": ("rainy", 14.0),
    }
    condition, temperature = reports.get(city.strip().lower(), ("cloudy", 18.0))
    if unit == "fahrenheit":
        temperature = round(temperature * 9 / 5 + 32, 1)
    return {"city": city, "condition": condition, "temperature": temperature, "unit": unit}


def count_words(text: str) -> int:
    """Count the words in a text.

    Args:
        text: The text whose words are counted.
    """
    return len(text.split())


def reverse_text(text: str) -> str:
    """Reverse the characters of a text.

    Args:
        text: The text to reverse.
    """
    return text[::-1]


def get_capital(country: str) -> str:
    """Look up the capital city of a country.

    Args:
        country: The name of the country.
    """
    capitals = {
        "france": "Paris",
        "japan": "Tokyo",
        "peru": "Lima",
        "kenya": "Nairobi",
        "norway": "Oslo",
        "canada": "Ottawa",
    }
    return capitals.get(country.strip().lower(), "unknown")


def send_message(recipient: str, body: str) -> str:
    """Send a text message to a person.

    Args:
        recipient: The name of the person who receives the message.
        body: The text of the message.
    """
    return f"Message sent to {recipient}: {body}"


def set_reminder(task: str, minutes: int) -> dict[str, str | int]:
    """Set a reminder that goes off after some minutes.

    Args:
        task: What to be reminded of.
        minutes: The number of minutes from now.
    """
    return {"task": task, "minutes": minutes, "status": "scheduled"}


def get_product_price(product: str, include_tax: bool = False) -> float:
    """Look up the price of a product in dollars.

    Args:
        product: The name of the product.
        include_tax: Whether to add sales tax to the price.
    """
    prices = {"laptop": 899.0, "keyboard": 49.5, "headphones": 79.0, "backpack": 35.0}
    price = prices.get(product.strip().lower(), 19.99)
    return round(price * 1.2, 2) if include_tax else price


def translate_word(word: str, language: str) -> str:
    """Translate an English word into another language.

    Args:
        word: The English word to translate.
        language: The language to translate into.
    """
    translations = {
        ("house", "spanish"): "casa",
        ("bread", "french"): "pain",
        ("water", "german"): "Wasser",
        ("friend", "italian"): "amico",
    }
    key = (word.strip().lower(), language.strip().lower())
    return translations.get(key, f"no translation found for {word}")


def get_store_hours() -> str:
    """Get the opening hours of the store."""
    return "Monday to Saturday, 9:00 to 18:00"
