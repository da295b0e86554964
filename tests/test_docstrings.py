"""What a model reads of a docstring, however it is written: what a tool does, and each parameter's text."""

import dataclasses
import textwrap
from typing import Annotated, Any

import pytest
from haystack.tools.errors import ToolInvocationError
from pydantic import BaseModel, Field

from llama_agent import FunctionTool, tool

Json = dict[str, Any]


def documented(docstring: str, *names: str, hint: Any = str) -> FunctionTool[..., Any]:
    """A tool with this docstring, and these parameters."""
    parameters = names or ("city", "days")
    space: Json = {}
    exec(f"def forecast({', '.join(parameters)}): return [{', '.join(parameters)}]", space)
    function = space["forecast"]
    function.__annotations__ = dict.fromkeys(parameters, hint)
    function.__doc__ = docstring
    return tool(function)


def texts_of(made: FunctionTool[..., Any]) -> dict[str, str | None]:
    return {name: shown.get("description") for name, shown in made.parameters["properties"].items()}


# Each form of the same docstring: this is what a model must read of it.
DESCRIPTION = "Forecast of a city.\n\nUses the national service."
TEXTS = {"city": "Name of the city.", "days": "How many days."}

FORMS = {
    "google": """
        Forecast of a city.

        Uses the national service.

        Args:
            city: Name of the city.
            days: How many days.

        Returns:
            A text.

        Raises:
            ValueError: No such city.
    """,
    "google with types": """
        Forecast of a city.

        Uses the national service.

        Args:
            city (str): Name of the city.
            days (int, optional): How many days.

        Returns:
            str: A text.
    """,
    "google with long types": """
        Forecast of a city.

        Uses the national service.

        Args:
            city (dict[str, list[int]] | None): Name of the city.
            days (Optional[Union[int, str]], optional): How many days.
    """,
    "google, 'Arguments'": """
        Forecast of a city.

        Uses the national service.

        Arguments:
            city: Name of the city.
            days: How many days.
    """,
    "google, 'Parameters'": """
        Forecast of a city.

        Uses the national service.

        Parameters:
            city: Name of the city.
            days: How many days.
    """,
    "google, 'Params'": """
        Forecast of a city.

        Uses the national service.

        Params:
            city: Name of the city.
            days: How many days.
    """,
    "google, 'Keyword Args'": """
        Forecast of a city.

        Uses the national service.

        Args:
            city: Name of the city.

        Keyword Args:
            days: How many days.
    """,
    "google, indented by two": """
        Forecast of a city.

        Uses the national service.

        Args:
          city: Name of the city.
          days: How many days.

        Returns:
          A text.
    """,
    "google with every section": """
        Forecast of a city.

        Uses the national service.

        Args:
            city: Name of the city.
            days: How many days.

        Returns:
            A text.

        Yields:
            Texts.

        Raises:
            ValueError: No such city.

        Example:
            >>> forecast("Oslo", 3)
            'snow'

        Examples:
            Another::

                forecast("Oslo", 3)
    """,
    "google, texts on lines of their own": """
        Forecast of a city.

        Uses the national service.

        Args:
            city:
                Name of the city.
            days:
                How many days.
    """,
    "google, body after the sections' blank lines": """

        Forecast of a city.


        Uses the national service.


        Args:

            city: Name of the city.

            days: How many days.


        Returns:

            A text.

    """,
    "google without a blank line before Args": """
        Forecast of a city.

        Uses the national service.
        Args:
            city: Name of the city.
            days: How many days.
        Returns:
            A text.
    """,
    "google with tabs": (
        "Forecast of a city.\n\n\tUses the national service.\n\n\tArgs:\n\t\tcity: Name of the city.\n"
        "\t\tdays: How many days.\n\n\tReturns:\n\t\tA text.\n\t"
    ),
    "google with windows' line ends": (
        "Forecast of a city.\r\n\r\nUses the national service.\r\n\r\nArgs:\r\n"
        "    city: Name of the city.\r\n    days: How many days.\r\n\r\nReturns:\r\n    A text.\r\n"
    ),
    "google, lower case heading": """
        Forecast of a city.

        Uses the national service.

        args:
            city: Name of the city.
            days: How many days.

        returns:
            A text.
    """,
    "google, names in backticks": """
        Forecast of a city.

        Uses the national service.

        Args:
            `city`: Name of the city.
            `days`: How many days.
    """,
    "google, names after dashes": """
        Forecast of a city.

        Uses the national service.

        Args:
            - city: Name of the city.
            - days: How many days.
    """,
    "google, names after stars": """
        Forecast of a city.

        Uses the national service.

        Args:
            *city: Name of the city.
            **days: How many days.
    """,
    "google, spaces before colons": """
        Forecast of a city.

        Uses the national service.

        Args:
            city : Name of the city.
            days (int) : How many days.
    """,
    "google, args not indented": """
        Forecast of a city.

        Uses the national service.

        Args:
        city: Name of the city.
        days: How many days.
    """,
    "numpy": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        city : str
            Name of the city.
        days : int, optional
            How many days.

        Returns
        -------
        str
            A text.

        Raises
        ------
        ValueError
            No such city.

        Examples
        --------
        >>> forecast("Oslo", 3)
        'snow'
    """,
    "numpy without types": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        city
            Name of the city.
        days
            How many days.
    """,
    "numpy, no space before the colon": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        city: str
            Name of the city.
        days: int, default 3
            How many days.
    """,
    "numpy with 'Other Parameters'": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        city : str
            Name of the city.

        Other Parameters
        ----------------
        days : int, default: 3
            How many days.

        See Also
        --------
        weather : Now.

        References
        ----------
        .. [1] A book.
    """,
    "numpy with stars": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        *city : str
            Name of the city.
        **days : int
            How many days.
    """,
    "numpy with short rules": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ---
        city : str
            Name of the city.
        days : int
            How many days.

        Returns
        ---
        str
    """,
    "rest": """
        Forecast of a city.

        Uses the national service.

        :param city: Name of the city.
        :param days: How many days.
        :returns: A text.
        :raises ValueError: No such city.
    """,
    "rest with types in the field": """
        Forecast of a city.

        Uses the national service.

        :param str city: Name of the city.
        :param int days: How many days.
        :return: A text.
        :rtype: str
    """,
    "rest with types beside": """
        Forecast of a city.

        Uses the national service.

        :param city: Name of the city.
        :type city: str
        :param days: How many days.
        :type days: int, optional
        :rtype: str
    """,
    "rest, 'parameter', 'arg' and 'keyword'": """
        Forecast of a city.

        Uses the national service.

        :parameter city: Name of the city.
        :keyword days: How many days.
    """,
    "rest, 'arg' and 'argument'": """
        Forecast of a city.

        Uses the national service.

        :arg city: Name of the city.
        :argument days: How many days.
    """,
    "rest without a blank line before fields": """
        Forecast of a city.

        Uses the national service.
        :param city: Name of the city.
        :param days: How many days.
        :returns: A text.
    """,
    "rest with blank lines between fields": """
        Forecast of a city.

        Uses the national service.

        :param city: Name of the city.

        :param days: How many days.

        :returns: A text.
    """,
    "rest with stars": r"""
        Forecast of a city.

        Uses the national service.

        :param \*city: Name of the city.
        :param \*\*days: How many days.
    """,
    "rest, text on the next line": """
        Forecast of a city.

        Uses the national service.

        :param city:
            Name of the city.
        :param days:
            How many days.
    """,
    "epydoc": """
        Forecast of a city.

        Uses the national service.

        @param city: Name of the city.
        @type city: str
        @param days: How many days.
        @return: A text.
        @rtype: str
        @raise ValueError: No such city.
    """,
    "google above, rest below": """
        Forecast of a city.

        Uses the national service.

        Args:
            city: Name of the city.

        :param days: How many days.
        :returns: A text.
    """,
    "rest above, google below": """
        Forecast of a city.

        Uses the national service.

        :param city: Name of the city.

        Args:
            days: How many days.
    """,
    "google above, numpy below": """
        Forecast of a city.

        Uses the national service.

        Args:
            city: Name of the city.
            days: How many days.

        Returns
        -------
        str
            A text.
    """,
    "numpy above, google below": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        city : str
            Name of the city.
        days : int
            How many days.

        Returns:
            A text.
    """,
    "numpy above, rest below": """
        Forecast of a city.

        Uses the national service.

        Parameters
        ----------
        city : str
            Name of the city.
        days : int
            How many days.

        :returns: A text.
        :raises ValueError: No such city.
    """,
    "parameters of others too": """
        Forecast of a city.

        Uses the national service.

        Args:
            country: It had one once.
            city: Name of the city.
            days: How many days.
    """,
}


@pytest.mark.parametrize("docstring", FORMS.values(), ids=FORMS.keys())
def test_a_parameters_text_is_found_in_each_form_of_docstring(docstring: str) -> None:
    assert texts_of(documented(docstring)) == TEXTS


@pytest.mark.parametrize("docstring", FORMS.values(), ids=FORMS.keys())
def test_the_description_is_summary_and_body_in_each_form_of_docstring(docstring: str) -> None:
    assert documented(docstring).description == DESCRIPTION


# The description.


@pytest.mark.parametrize(
    ("docstring", "description"),
    [
        ("Forecast.", "Forecast."),
        ("  Forecast.  ", "Forecast."),
        ("\n    Forecast.\n    ", "Forecast."),
        ("Forecast of a city\nthat has weather.", "Forecast of a city\nthat has weather."),
        ("Forecast.\n\nOne.\n\nTwo.", "Forecast.\n\nOne.\n\nTwo."),
        ("Forecast.\n\nNote: it may rain.", "Forecast.\n\nNote: it may rain."),
        ("Forecast: rain or sun.", "Forecast: rain or sun."),
        (
            "Forecast for 10:30 o'clock.\n\nSee http://a.b/c?d=e.",
            "Forecast for 10:30 o'clock.\n\nSee http://a.b/c?d=e.",
        ),
        ("Größe „messen“ 📏.", "Größe „messen“ 📏."),
        ("Forecast.\n\n- one\n- two\n", "Forecast.\n\n- one\n- two"),
        ("Forecast.\n\nReturns the weather of today.", "Forecast.\n\nReturns the weather of today."),
        ("Returns the weather.", "Returns the weather."),
        ("Example of a forecast.", "Example of a forecast."),
        ("Forecast.\n\nArgs:\n    city: Name.", "Forecast."),
        ("Forecast.\n\n:param city: Name.", "Forecast."),
        ("Forecast.\nArgs:\n    city: Name.", "Forecast."),
        ("Forecast.\n:param city: Name.", "Forecast."),
        ("Forecast.\n\nReturns:\n    A text.", "Forecast."),
        ("Forecast.\n\nReturns:\n    A text.\n\nRaises:\n    ValueError: No.", "Forecast."),
        ("Forecast.\n\nExamples:\n    >>> forecast()\n    'snow'", "Forecast."),
        ("Forecast.\n\nReturns\n-------\nstr\n    A text.", "Forecast."),
        ("Forecast.\n\nExamples\n--------\n>>> forecast()\n'snow'", "Forecast."),
        ("Forecast.\n\n@return: A text.", "Forecast."),
        ("Forecast.\n\n:rtype: str", "Forecast."),
    ],
)
def test_the_description_keeps_what_says_something_and_no_section(docstring: str, description: str) -> None:
    assert documented(docstring).description == description


def test_text_after_the_sections_is_kept_and_given_to_no_parameter() -> None:
    docstring = """
        Forecast of a city.

        Args:
            city: Name of the city.
            days: How many days.

        Never call this at night.
    """
    made = documented(docstring)
    assert texts_of(made) == TEXTS
    assert made.description == "Forecast of a city.\n\nNever call this at night."


def test_notes_and_warnings_say_how_to_use_it_and_stay() -> None:
    docstring = """
        Forecast of a city.

        Note:
            Only for Norway.

        Args:
            city: Name of the city.
            days: How many days.

        Warning:
            Costs money.
    """
    made = documented(docstring)
    assert texts_of(made) == TEXTS
    for text in ("Only for Norway.", "Costs money."):
        assert text in made.description


# A parameter's text.


def without_blank_lines(text: str | None) -> str:
    return "\n".join(line for line in (text or "").splitlines() if line.strip())


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("city: Name.", "Name."),
        ("city: Name of the city,\n        in English.", "Name of the city,\nin English."),
        ("city: Name of the city,\n    in English.", "Name of the city,\nin English."),
        ("city: Name. Such as: Oslo, Bergen.", "Name. Such as: Oslo, Bergen."),
        ("city: A time like 10:30.", "A time like 10:30."),
        (
            "city: One of:\n        - Oslo: the capital.\n        - Bergen.",
            "One of:\n- Oslo: the capital.\n- Bergen.",
        ),
        (
            "city: One of:\n\n        * Oslo\n\n        * Bergen",
            "One of:\n\n* Oslo\n\n* Bergen",
        ),
        (
            "city: Like\n        - Norway\n            - Oslo\n        - Peru",
            "Like\n- Norway\n    - Oslo\n- Peru",
        ),
        ("city: First.\n\n        Second.", "First.\n\nSecond."),
        ("city (str): Name.", "Name."),
        ("city (:obj:`str`, optional): Name.", "Name."),
        ("city (Literal['a', 'b']): Name.", "Name."),
        ('city (str, defaults to "Oslo"): Name.', "Name."),
        ("city: Name. Defaults to 'Oslo'.", "Name. Defaults to 'Oslo'."),
        ("city: Größe „x“ 📏.", "Größe „x“ 📏."),
        ("city: {'a': 1} or [1, 2].", "{'a': 1} or [1, 2]."),
        ("city: `name` of *it*.", "`name` of *it*."),
    ],
)
def test_a_parameters_text_is_whole(written: str, text: str) -> None:
    made = documented(f"Forecast.\n\nArgs:\n    {written}\n    days: How many days.\n\nReturns:\n    A text.")
    found = texts_of(made)
    assert (without_blank_lines(found["city"]), found["days"]) == (
        without_blank_lines(text),
        "How many days.",
    )
    assert made.description == "Forecast."


def test_a_numpy_text_of_several_paragraphs_is_whole() -> None:
    docstring = """
        Forecast.

        Parameters
        ----------
        city : str
            First.

            Second:

            - one
            - two
        days : int
            How many days.
    """
    assert texts_of(documented(docstring)) == {
        "city": "First.\n\nSecond:\n\n- one\n- two",
        "days": "How many days.",
    }


def test_a_rest_text_of_several_lines_is_whole() -> None:
    docstring = """
        Forecast.

        :param city: First,
            second:

            - one
            - two
        :param days: How many days.
    """
    assert texts_of(documented(docstring)) == {
        "city": "First,\nsecond:\n\n- one\n- two",
        "days": "How many days.",
    }


def test_numpy_names_that_share_a_text_each_get_it() -> None:
    docstring = """
        Forecast.

        Parameters
        ----------
        city, days : str
            What to ask.
    """
    assert texts_of(documented(docstring)) == {"city": "What to ask.", "days": "What to ask."}


def test_a_parameter_without_a_text_has_no_description() -> None:
    made = documented("Forecast.\n\nArgs:\n    city: Name.")
    assert texts_of(made) == {"city": "Name.", "days": None}


def test_a_parameter_called_like_a_section_gets_its_text() -> None:
    docstring = """
        Forecast.

        Args:
            returns: What comes back.
            args: The rest.
            note: A remark.
            example: An example.
            raises: How much.
    """
    names = ("returns", "args", "note", "example", "raises")
    texts = ["What comes back.", "The rest.", "A remark.", "An example.", "How much."]
    assert texts_of(documented(docstring, *names)) == dict(zip(names, texts, strict=True))


@pytest.mark.parametrize(
    "docstring",
    [
        "Forecast.\n\nArgs:",
        "Forecast.\n\nArgs:\n",
        "Forecast.\n\nArgs:\n    city",
        "Forecast.\n\nArgs:\n    : nothing",
        "Forecast.\n\n:param",
        "Forecast.\n\n:param city",
        "Forecast.\n\n:param : x",
        "Forecast.\n\n::",
        "Forecast.\n\nParameters\n----------",
        "Forecast.\n\nParameters\n----------\n",
        "Forecast.\n\nReturns\n-------",
        "Forecast.\n\n@param",
        "Forecast.\n\n@",
        "Forecast.\n\nArgs:\n    city (: Name.",
        "Forecast.\n\nArgs:\n    city): Name.",
        "Forecast.\n\nArgs:\n        city: deep.\n  days: shallow.",
        "Forecast.\n\n-----\n\n=====",
    ],
)
def test_a_broken_docstring_still_gives_its_summary(docstring: str) -> None:
    made = documented(docstring)
    assert made.description.startswith("Forecast.")
    assert set(texts_of(made)) == {"city", "days"}


# What wins.


def test_a_text_in_the_annotation_wins_over_the_docstring() -> None:
    def forecast(
        city: Annotated[str, "From the annotation."],
        days: Annotated[int, Field(description="From the field.")],
        hour: int,
        units: Annotated[str, Field(max_length=3)] = "C",
    ) -> str:
        """
        Forecast.

        Args:
            city: From the docstring.
            days: From the docstring.
            hour: From the docstring.
            units: From the docstring.
        """
        return f"{city}{days}{hour}{units}"

    assert texts_of(tool(forecast)) == {
        "city": "From the annotation.",
        "days": "From the field.",
        "hour": "From the docstring.",
        "units": "From the docstring.",
    }


def test_a_description_given_to_the_decorator_wins_and_parameters_keep_their_texts() -> None:
    def forecast(city: str) -> str:
        """
        Forecast.

        Args:
            city: Name of the city.
        """
        return city

    made = tool(description="Weather.")(forecast)
    assert (made.description, texts_of(made)) == ("Weather.", {"city": "Name of the city."})


def test_a_text_given_to_a_parameter_wins_over_its_types_own() -> None:
    class Place(BaseModel):
        """A place on a map."""

        name: str = Field(description="Its name.")

    def forecast(place: Place, other: Place) -> str:
        """
        Forecast.

        Args:
            place: Where.
        """
        return place.name + other.name

    made = tool(forecast)
    assert texts_of(made) == {"place": "Where.", "other": "A place on a map."}
    assert made.parameters["properties"]["place"]["properties"]["name"]["description"] == "Its name."


# Classes that parameters are made of.


def test_the_docstring_of_a_nested_class_is_read_like_a_functions() -> None:
    @dataclasses.dataclass
    class Place:
        """
        A place on a map.

        :param name: Its name.
        :param country: Where it is.
        """

        name: str
        country: str = "Norway"

    def forecast(place: Place) -> str:
        """Forecast."""
        return place.name

    place = tool(forecast).parameters["properties"]["place"]
    assert place["description"] == "A place on a map."
    assert place["properties"]["name"]["description"] == "Its name."
    assert place["properties"]["country"]["description"] == "Where it is."


def test_a_dataclass_without_a_docstring_has_no_made_up_description() -> None:
    @dataclasses.dataclass
    class Place:
        name: str

    def forecast(place: Place) -> str:
        """Forecast."""
        return place.name

    assert "description" not in tool(forecast).parameters["properties"]["place"]


# Choices and defaults that only the docstring tells.

CHOICES = {
    "google, [Enum]": 'Args:\n    city: Which. [Enum]: ["a", "b"]',
    "google, [Enum] first": 'Args:\n    city: [Enum]: ["a", "b"] Which.',
    "google, [Enum], single quotes": "Args:\n    city: Which. [Enum]: ['a', 'b']",
    "google, [Enum] on a line of its own": 'Args:\n    city: Which.\n        [Enum]: ["a", "b"]',
    "google, one of, or": 'Args:\n    city: Which: one of "a" or "b".',
    "google, One of, commas": 'Args:\n    city: One of "a", "b".',
    "google, one of, single quotes": "Args:\n    city: Which, one of 'a', 'b'.",
    "google, one of, colon": 'Args:\n    city: One of: "a", "b".',
    "rest, [Enum]": ':param city: Which. [Enum]: ["a", "b"]',
    "rest, one of": ':param city: One of "a" or "b".',
    "epydoc, one of": '@param city: One of "a" or "b".',
    "numpy, type": "Parameters\n----------\ncity : {'a', 'b'}\n    Which.",
    "numpy, double quotes": 'Parameters\n----------\ncity : {"a", "b"}, optional\n    Which.',
    "numpy, default": "Parameters\n----------\ncity : {'a', 'b'}, default 'a'\n    Which.",
    "numpy, text": 'Parameters\n----------\ncity : str\n    One of "a" or "b".',
}


@pytest.mark.parametrize("written", CHOICES.values(), ids=CHOICES.keys())
def test_documented_choices_are_an_enum_and_hold(written: str) -> None:
    made = documented(f"Forecast.\n\n{written}", "city")
    city = made.parameters["properties"]["city"]
    assert (city["type"], city["enum"]) == ("string", ["a", "b"])
    assert made.invoke(city="b") == ["b"]
    with pytest.raises(ToolInvocationError, match=r"city: .*'a'.*'b'.*'c'"):
        made.invoke(city="c")


def test_three_documented_choices_are_an_enum() -> None:
    made = documented('Forecast.\n\nArgs:\n    city: Which, one of "a", "b" or "c d".', "city")
    assert made.parameters["properties"]["city"]["enum"] == ["a", "b", "c d"]


def test_three_documented_choices_with_an_oxford_comma_are_an_enum() -> None:
    made = documented('Forecast.\n\nArgs:\n    city: Which, one of "a", "b", or "c".', "city")
    assert made.parameters["properties"]["city"]["enum"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        'Such as "a" or "b".',
        'For example "a".',
        "One of the cities.",
        "One of many.",
        "Someone of 'a' rank.",
        'Not one of "a", "b".',
        'One of "a", "b", or any other.',
        'One of "a", "b", etc.',
    ],
)
def test_examples_in_a_text_are_no_enum(text: str) -> None:
    made = documented(f"Forecast.\n\nArgs:\n    city: {text}", "city")
    assert made.parameters["properties"]["city"] == {"type": "string", "description": text}
    assert made.invoke(city="Oslo") == ["Oslo"]


def test_documented_choices_of_numbers_are_numbers() -> None:
    made = documented(
        "Forecast.\n\nParameters\n----------\ndays : {1, 2, 3}\n    How many.", "days", hint=int
    )
    assert made.parameters["properties"]["days"]["enum"] == [1, 2, 3]
    assert made.invoke(days="2") == [2]


def test_documented_choices_that_dont_fit_the_type_are_only_text() -> None:
    made = documented('Forecast.\n\nArgs:\n    days: One of "few" or "many".', "days", hint=int)
    assert "enum" not in made.parameters["properties"]["days"]
    assert made.invoke(days=3) == [3]


def test_documented_choices_of_a_list_are_those_of_its_items_or_only_text() -> None:
    made = documented('Forecast.\n\nArgs:\n    city: One of "a", "b".', "city", hint=list[str])
    assert "enum" not in made.parameters["properties"]["city"]
    assert made.invoke(city=["a", "b"]) == [["a", "b"]]


def test_an_optional_parameters_documented_choices_allow_leaving_it_out() -> None:
    def forecast(city: str | None = None) -> str | None:
        """
        Forecast.

        Args:
            city: One of "a", "b".
        """
        return city

    made = tool(forecast)
    assert made.parameters["properties"]["city"]["enum"] == ["a", "b"]
    assert (made.invoke(), made.invoke(city="a"), made.invoke(city=None)) == (None, "a", None)


def test_a_default_outside_of_the_documented_choices_still_works() -> None:
    def forecast(city: str = "") -> str:
        """
        Forecast.

        Args:
            city: One of "a", "b".
        """
        return city

    assert tool(forecast).invoke() == ""


def test_a_documented_default_stays_in_the_text_and_the_schemas_is_the_functions() -> None:
    def forecast(days: int = 3, city: str | None = None) -> str:
        """
        Forecast.

        Args:
            days (int, optional): How many. Defaults to 3.
            city: Name. Default: where you are.
        """
        return f"{days} {city}"

    assert tool(forecast).parameters["properties"] == {
        "days": {"type": "integer", "description": "How many. Defaults to 3.", "default": 3},
        "city": {"type": "string", "description": "Name. Default: where you are."},
    }


# Where it stands.


def test_a_method_inherits_the_docstring_it_doesnt_write() -> None:
    class Base:
        def forecast(self, city: str) -> str:
            """
            Forecast.

            Args:
                city: Name of the city.
            """
            return city

    class Child(Base):
        def forecast(self, city: str) -> str:
            return city.upper()

    made = tool(Child().forecast)
    assert (made.description, texts_of(made)) == ("Forecast.", {"city": "Name of the city."})


def test_a_docstring_indented_anyhow_reads_the_same() -> None:
    for spaces in (0, 2, 4, 8):
        docstring = textwrap.indent(textwrap.dedent(FORMS["google"]), " " * spaces)
        made = documented(docstring)
        assert (made.description, texts_of(made)) == (DESCRIPTION, TEXTS)
