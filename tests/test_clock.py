"""The clock that is given to models: zones, summer time, calendars, and errors that say what to do."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from haystack.tools.errors import ToolInvocationError
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_agent_tools import clock

from llama_agent import FunctionTool, ToolRetry
from tests.endpoint import Endpoint
from tests.test_tools import call, definitions, told

BERLIN, PARIS, NEW_YORK, TOKYO = "Europe/Berlin", "Europe/Paris", "America/New_York", "Asia/Tokyo"
SECONDS = 5.0
"""More than any call may take, on a slow machine."""


def asked(tool: FunctionTool, **arguments: Any) -> dict[str, Any]:
    """What a model's call gives: its arguments are texts and numbers."""
    return tool.invoke(**arguments)


def refused(tool: FunctionTool, **arguments: Any) -> str:
    with pytest.raises(ToolInvocationError) as caught:
        tool.invoke(**arguments)
    return str(caught.value)


def converted(time: str, to_zone: str, from_zone: str = "UTC") -> str:
    return asked(clock.convert_time, time=time, to_zone=to_zone, from_zone=from_zone)["time"]


def added(start: str, **arguments: Any) -> str:
    return asked(clock.add_time, start=start, **arguments)["time"]


def between(start: str, end: str, zone: str = "UTC") -> dict[str, Any]:
    return asked(clock.time_between, start=start, end=end, zone=zone)


# Now


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, "Asia/Kolkata", "Pacific/Kiritimati"])
def test_now_is_the_real_time_in_the_zone(zone: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = asked(clock.now, zone=zone)
    time = datetime.fromisoformat(told["time"])
    assert before <= time <= datetime.now(UTC)
    assert time.utcoffset() == time.astimezone(ZoneInfo(zone)).utcoffset()
    assert told["weekday"] == f"{time:%A}"
    assert told["zone"] == zone


def test_now_is_in_utc_when_no_zone_is_given() -> None:
    assert asked(clock.now)["time"].endswith("+00:00")


# Zones


@pytest.mark.parametrize(
    ("time", "from_zone", "to_zone", "wanted"),
    [
        ("2026-01-31T12:00", "UTC", TOKYO, "2026-01-31T21:00:00+09:00"),
        ("2026-01-31T12:00", TOKYO, "UTC", "2026-01-31T03:00:00+00:00"),
        ("2026-01-31T20:00", NEW_YORK, TOKYO, "2026-02-01T10:00:00+09:00"),
        ("2026-07-01T12:00", "UTC", BERLIN, "2026-07-01T14:00:00+02:00"),
        ("2026-01-01T12:00", "UTC", BERLIN, "2026-01-01T13:00:00+01:00"),
        ("2026-01-01", "UTC", NEW_YORK, "2025-12-31T19:00:00-05:00"),
        ("2026-01-31T12:00Z", TOKYO, "UTC", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00+02:00", TOKYO, "UTC", "2026-01-31T10:00:00+00:00"),
        ("2026-01-31T12:00:00.5", "UTC", TOKYO, "2026-01-31T21:00:00.500000+09:00"),
        ("2026-01-31 12:00", "UTC", TOKYO, "2026-01-31T21:00:00+09:00"),
        ("2026-01-31T12:00", "UTC", "Asia/Kathmandu", "2026-01-31T17:45:00+05:45"),
        ("2026-01-31T12:00", "UTC", "Australia/Eucla", "2026-01-31T20:45:00+08:45"),
        ("2026-01-31T12:00", "UTC", "Pacific/Kiritimati", "2026-02-01T02:00:00+14:00"),
        ("2026-01-31T12:00", "UTC", "UTC", "2026-01-31T12:00:00+00:00"),
        # Summer time begins on 2026-03-29 at 01:00 UTC, and ends on 2026-10-25 at 01:00 UTC.
        ("2026-03-29T00:59", "UTC", BERLIN, "2026-03-29T01:59:00+01:00"),
        ("2026-03-29T01:00", "UTC", BERLIN, "2026-03-29T03:00:00+02:00"),
        ("2026-10-25T00:59", "UTC", BERLIN, "2026-10-25T02:59:00+02:00"),
        ("2026-10-25T01:00", "UTC", BERLIN, "2026-10-25T02:00:00+01:00"),
        # Before time zones there was local time, to the second.
        ("1800-01-01T12:00", "UTC", "Europe/Amsterdam", None),
        ("0002-01-01", "UTC", TOKYO, None),
        ("9998-12-31T23:59", "UTC", TOKYO, "9999-01-01T08:59:00+09:00"),
    ],
)
def test_a_time_in_one_zone_is_told_in_another(
    time: str, from_zone: str, to_zone: str, wanted: str | None
) -> None:
    told = converted(time, to_zone, from_zone)
    assert wanted is None or told == wanted
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(from_zone))
    assert datetime.fromisoformat(told) == moment


@pytest.mark.parametrize(
    ("written", "zone"),
    [
        ("europe/paris", PARIS),
        ("EUROPE/PARIS", PARIS),
        (" Europe/Paris ", PARIS),
        ("Paris", PARIS),
        ("paris", PARIS),
        ("New York", NEW_YORK),
        ("new_york", NEW_YORK),
        ("America/New York", NEW_YORK),
        ("Tokyo", TOKYO),
        ("utc", "UTC"),
        ("Utc", "UTC"),
        ("gmt", "GMT"),
    ],
)
def test_a_zone_that_is_meant_clearly_needs_no_exact_spelling(written: str, zone: str) -> None:
    assert asked(clock.convert_time, time="2026-01-31", to_zone=written)["zone"] == zone


@pytest.mark.parametrize(
    "zone",
    ["", " ", "Mars/Olympus", "PST", "Istanbul", "Europe", "+25:00", "UTC+99", "Europe/Paris/X", "tzdata.zi"],
)
def test_a_zone_that_isnt_clear_is_asked_for_again_with_examples(zone: str) -> None:
    message = refused(clock.now, zone=zone)
    assert "Europe/Paris" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("zone", "suggestion"),
    [("Europe/Pariss", PARIS), ("Istanbul", "Europe/Istanbul"), ("America/Newyork", NEW_YORK)],
)
def test_a_zone_that_is_nearly_right_is_suggested(zone: str, suggestion: str) -> None:
    assert suggestion in refused(clock.now, zone=zone)


def test_a_plus_sign_in_a_zone_is_never_taken_for_a_minus() -> None:
    # "Etc/GMT+2" lies two hours *behind*: nobody who writes GMT+2 means it.
    try:
        told = clock.convert_time(time=datetime(2026, 1, 31, 12), to_zone="GMT+2")["time"]
    except ToolRetry:
        return
    assert told == "2026-01-31T14:00:00+02:00"


@pytest.mark.parametrize(
    "zone",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "/usr/share/zoneinfo/UTC/../../../../etc/passwd",
        "Europe/../../../../etc/passwd",
        "a\0b",
        "\ud800",
        "Europe/Paris\n",
        "x" * 100_000,
        "/" * 10_000,
        "*",
        ".",
        "..",
        "\x1b[2J",
    ],
    ids=repr,
)
def test_a_hostile_zone_reads_no_file_and_is_answered_at_once(zone: str) -> None:
    begin = monotonic()
    try:
        told = clock.now(zone=zone)
    except ToolRetry as error:
        assert "root:" not in str(error)
        assert len(str(error)) < 500
    else:
        assert told["zone"] == zone.strip() == PARIS
    assert monotonic() - begin < SECONDS


# Adding


@pytest.mark.parametrize(
    ("start", "amounts", "wanted"),
    [
        ("2026-01-31", {"months": 1}, "2026-02-28"),
        ("2024-01-31", {"months": 1}, "2024-02-29"),
        ("2026-03-31", {"months": -1}, "2026-02-28"),
        ("2026-05-31", {"months": 1}, "2026-06-30"),
        ("2026-01-31", {"months": 13}, "2027-02-28"),
        ("2026-01-31", {"months": -13}, "2024-12-31"),
        ("2024-02-29", {"years": 1}, "2025-02-28"),
        ("2024-02-29", {"years": 4}, "2028-02-29"),
        ("2024-02-29", {"years": -1}, "2023-02-28"),
        ("2026-02-28", {"days": 1}, "2026-03-01"),
        ("2024-02-28", {"days": 1}, "2024-02-29"),
        ("1900-02-28", {"days": 1}, "1900-03-01"),
        ("2000-02-28", {"days": 1}, "2000-02-29"),
        ("2026-12-31", {"days": 1}, "2027-01-01"),
        ("2026-01-01", {"days": -1}, "2025-12-31"),
        ("2026-01-31", {"weeks": 2}, "2026-02-14"),
        ("2026-01-31", {"years": 1, "months": -1, "weeks": 1, "days": -7}, "2026-12-31"),
        ("2026-01-31", {"months": 1, "days": 1}, "2026-03-01"),
        ("2026-01-31", {}, "2026-01-31"),
        ("2026-01-31", {"days": 100_000}, "2299-11-16"),
        ("2026-01-31", {"years": -2025}, "0001-01-31"),
        ("2026-01-31", {"years": 7973}, "9999-01-31"),
        ("2026-01-31", {"hours": 48}, "2026-02-02"),
        ("2026-01-31", {"seconds": -86_400}, "2026-01-30"),
        ("2026-01-31", {"minutes": 1440, "hours": -24}, "2026-01-31"),
        ("2026-01-31", {"days": "3"}, "2026-02-03"),
    ],
)
def test_time_is_added_as_the_calendar_has_it(start: str, amounts: dict[str, int], wanted: str) -> None:
    told = asked(clock.add_time, start=start, **amounts)
    assert told["time"] == f"{wanted}T00:00:00+00:00"
    assert told["weekday"] == f"{datetime.fromisoformat(wanted):%A}"


@pytest.mark.parametrize(
    ("start", "amounts", "wanted"),
    [
        # A day later is the same time of day; 24 hours later isn't, when the clocks were changed.
        ("2026-03-28T12:00", {"days": 1}, "2026-03-29T12:00:00+02:00"),
        ("2026-03-28T12:00", {"hours": 24}, "2026-03-29T13:00:00+02:00"),
        ("2026-10-24T12:00", {"days": 1}, "2026-10-25T12:00:00+01:00"),
        ("2026-10-24T12:00", {"hours": 24}, "2026-10-25T11:00:00+01:00"),
        ("2026-03-30T12:00", {"days": -1}, "2026-03-29T12:00:00+02:00"),
        # 02:30 doesn't exist on 2026-03-29.
        ("2026-03-28T02:30", {"days": 1}, "2026-03-29T03:30:00+02:00"),
        ("2026-02-28T02:30", {"months": 1, "days": 1}, "2026-03-29T03:30:00+02:00"),
        ("2026-03-29T01:30", {"hours": 1}, "2026-03-29T03:30:00+02:00"),
        ("2026-03-29T01:59:59", {"seconds": 1}, "2026-03-29T03:00:00+02:00"),
        # 02:30 is there twice on 2026-10-25; the first one is meant.
        ("2026-10-25T02:30", {}, "2026-10-25T02:30:00+02:00"),
        ("2026-10-25T02:30", {"hours": 1}, "2026-10-25T02:30:00+01:00"),
        ("2026-10-25T02:30", {"hours": 2}, "2026-10-25T03:30:00+01:00"),
        ("2026-10-25T03:30", {"hours": -1}, "2026-10-25T02:30:00+01:00"),
        ("2026-10-24T02:30", {"days": 1}, "2026-10-25T02:30:00+02:00"),
        # A time that says its own offset keeps it.
        ("2026-03-28T12:00+01:00", {"hours": 24}, "2026-03-29T12:00:00+01:00"),
        ("2026-03-28T12:00Z", {"days": 1}, "2026-03-29T12:00:00+00:00"),
        ("2026-03-28T12:00-03:30", {"days": 1}, "2026-03-29T12:00:00-03:30"),
    ],
)
def test_a_change_to_or_from_summer_time_is_heeded(start: str, amounts: dict[str, int], wanted: str) -> None:
    assert added(start, zone=BERLIN, **amounts) == wanted


@pytest.mark.parametrize(
    ("date", "weekday", "week"),
    [
        ("2026-01-31", "Saturday", "2026-W05"),
        ("2024-02-29", "Thursday", "2024-W09"),
        ("2021-01-01", "Friday", "2020-W53"),
        ("2024-12-30", "Monday", "2025-W01"),
        ("2000-01-01", "Saturday", "1999-W52"),
        ("1969-07-20", "Sunday", "1969-W29"),
        ("0001-01-01", "Monday", None),
        ("9999-12-31", "Friday", "9999-W52"),
    ],
)
def test_the_weekday_and_the_calendar_week_are_right(date: str, weekday: str, week: str | None) -> None:
    told = asked(clock.add_time, start=date)
    assert told["weekday"] == weekday
    assert week is None or told["week"] == week


UNITS = ["years", "months", "weeks", "days", "hours", "minutes", "seconds"]


@pytest.mark.parametrize(
    "amount", [10**12, -(10**12), 10**400, -(10**400)], ids=["1e12", "-1e12", "1e400", "-"]
)
@pytest.mark.parametrize("unit", UNITS)
def test_no_amount_is_too_large_for_a_clear_answer(unit: str, amount: int) -> None:
    begin = monotonic()
    with pytest.raises(ToolRetry, match="years 1 to 9999"):
        clock.add_time(start=datetime(2026, 1, 31), **{unit: amount})
    assert monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (clock.add_time, {"start": "9999-12-31", "days": 1}),
        (clock.add_time, {"start": "0001-01-01", "seconds": -1}),
        (clock.add_time, {"start": "0001-01-01", "zone": TOKYO}),
        (clock.add_time, {"start": "9999-12-31T23:00", "zone": NEW_YORK}),
        (clock.convert_time, {"time": "0001-01-01", "to_zone": NEW_YORK}),
        (clock.convert_time, {"time": "9999-12-31T23:59", "to_zone": TOKYO}),
        (clock.time_between, {"start": "0001-01-01", "end": "2026-01-01", "zone": TOKYO}),
        (clock.time_between, {"start": "2026-01-01", "end": "9999-12-31T23:00", "zone": NEW_YORK}),
    ],
)
def test_what_lies_beyond_the_calendar_is_told_as_that(tool: FunctionTool, arguments: dict[str, Any]) -> None:
    assert "years 1 to 9999" in refused(tool, **arguments)


# Between


@pytest.mark.parametrize(
    ("start", "end", "calendar", "days", "hours"),
    [
        ("2026-01-31", "2026-01-31", "no time", 0, 0),
        ("2026-01-31", "2026-02-01", "1 day", 1, 24),
        ("2026-02-01", "2026-01-31", "-1 day", -1, -24),
        ("2026-01-01", "2027-01-01", "1 year", 365, 8760),
        ("2024-01-01", "2025-01-01", "1 year", 366, 8784),
        ("2027-01-01", "2026-01-01", "-1 year", -365, -8760),
        ("2026-01-15", "2026-03-20", "2 months, 5 days", 64, 1536),
        ("2026-01-31T12:00", "2026-01-31T13:30", "1 hour, 30 minutes", 0, 1.5),
        ("2026-01-31T23:59:59", "2026-02-01", "1 second", 1, 0.000278),
        ("2026-01-31T12:00", "2026-01-31T11:59", "-1 minute", 0, -0.016667),
        ("1969-07-20", "2026-07-20", "57 years", 20819, 499656),
        (
            "0001-01-01",
            "9999-12-31",
            "9998 years, 11 months, 30 days",
            3652058,
            87649392,
        ),
    ],
)
def test_the_time_between_is_told_by_the_calendar_in_days_and_in_hours(
    start: str, end: str, calendar: str, days: int, hours: float
) -> None:
    told = between(start, end)
    assert (told["calendar"], told["calendar_days"], told["total_hours"]) == (calendar, days, hours)


@pytest.mark.parametrize(
    ("start", "end", "count"),
    [
        ("2026-01-26", "2026-02-02", 5),  # Monday to Monday
        ("2026-01-30", "2026-02-02", 1),  # Friday to Monday
        ("2026-01-31", "2026-02-02", 0),  # Saturday to Monday
        ("2026-01-26", "2026-01-26", 0),
        ("2026-01-28", "2026-01-29", 1),
        ("2026-01-01", "2027-01-01", 261),
        ("2026-02-02", "2026-01-26", -5),
    ],
)
def test_working_days_are_counted_from_the_first_day_up_to_the_last(start: str, end: str, count: int) -> None:
    assert between(start, end)["weekdays_from_monday_to_friday"] == count


@pytest.mark.parametrize(
    ("start", "end", "zone", "hours"),
    [
        ("2026-03-28T12:00", "2026-03-29T12:00", BERLIN, 23),
        ("2026-10-24T12:00", "2026-10-25T12:00", BERLIN, 25),
        ("2026-03-29T01:30", "2026-03-29T03:30", BERLIN, 1),
        ("2026-10-25T00:00", "2026-10-26T00:00", BERLIN, 25),
        ("2026-01-01T12:00+00:00", "2026-01-01T12:00-05:00", "UTC", 5),
        ("2026-01-01T12:00+02:00", "2026-01-01T10:00Z", "UTC", 0),
        ("2026-01-01T00:00", "2026-01-01T00:00Z", NEW_YORK, -5),
    ],
)
def test_hours_between_are_those_that_really_pass(start: str, end: str, zone: str, hours: int) -> None:
    told = between(start, end, zone)
    assert (told["total_hours"], told["total_seconds"]) == (hours, hours * 3600)


@pytest.mark.parametrize(
    ("start", "end", "calendar"),
    [
        ("2026-03-29T01:30", "2026-03-29T03:30", "1 hour"),
        ("2026-10-25T02:30", "2026-10-25T03:30", "2 hours"),
        ("2026-10-25T01:30", "2026-10-25T04:30", "4 hours"),
    ],
)
def test_within_a_day_the_calendars_hours_are_those_that_really_pass(
    start: str, end: str, calendar: str
) -> None:
    assert between(start, end, BERLIN)["calendar"] == calendar


def test_times_of_two_zones_are_compared_in_one() -> None:
    # 23:00 in New York is 04:00 UTC: the end lies an hour before the start, on the same day in either zone.
    told = between("2026-01-01T23:00-05:00", "2026-01-02T03:00+00:00")
    assert told["calendar"] == "-1 hour"
    assert told["total_hours"] == -1
    assert told["calendar_days"] == 0
    assert told["weekdays_from_monday_to_friday"] == 0


DATES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda time: time.replace(microsecond=0))


@settings(max_examples=100, deadline=None, database=None)
@given(DATES, DATES)
def test_adding_the_time_between_leads_from_the_start_to_the_end(start: datetime, end: datetime) -> None:
    told = clock.time_between(start=start, end=end)
    amounts = {
        f"{unit.removesuffix('s')}s": int(number)
        for number, unit in re.findall(r"(-?\d+) (\w+)", told["calendar"])
    }
    assert datetime.fromisoformat(clock.add_time(start=start, **amounts)["time"]) == end.replace(tzinfo=UTC)
    assert told["total_seconds"] == (end - start).total_seconds()
    assert told["calendar_days"] == (end.date() - start.date()).days


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2040, 1, 1)),
    st.sampled_from([BERLIN, NEW_YORK, TOKYO, "UTC", "Australia/Lord_Howe"]),
    st.integers(-(10**6), 10**6),
)
def test_seconds_that_are_added_are_seconds_that_lie_between(time: datetime, zone: str, amount: int) -> None:
    start = datetime.fromisoformat(clock.add_time(start=time.replace(microsecond=0), zone=zone)["time"])
    end = datetime.fromisoformat(clock.add_time(start=start, seconds=amount)["time"])
    assert end - start == timedelta(seconds=amount)
    assert clock.time_between(start=start, end=end)["total_seconds"] == amount


# What a model gets wrong


@pytest.mark.parametrize(
    "time",
    [
        "tomorrow",
        "noon today",
        "2026-02-30",
        "2026-13-01",
        "2025-02-29",
        "2026-01-31T25:00",
        "31.01.2026",
        "01/31/2026",
        "12:00",
        "",
        "1234567890",
        "0000-01-01",
        "10000-01-01",
        "-2026-01-01",
        "2026-01-31T12:00 Berlin",
    ],
)
@pytest.mark.parametrize(
    ("tool", "name", "others"),
    [
        (clock.convert_time, "time", {"to_zone": "UTC"}),
        (clock.add_time, "start", {"days": 1}),
        (clock.time_between, "end", {"start": "2026-01-31"}),
    ],
    ids=["convert_time", "add_time", "time_between"],
)
def test_a_time_that_is_none_is_refused_by_its_name_and_with_an_example(
    tool: FunctionTool, name: str, others: dict[str, Any], time: str
) -> None:
    message = refused(tool, **{name: time}, **others)
    assert f"{name}:" in message
    assert "2026-01-31T12:00" in message
    assert [other for other in others if f"{other}:" in message] == []


def test_a_message_shows_the_text_that_the_model_wrote() -> None:
    message = refused(clock.convert_time, time="noon today", to_zone="UTC")
    assert "'noon today'" in message
    assert "T00:00:00'" not in message


def test_only_the_argument_that_is_wrong_is_named() -> None:
    message = refused(clock.add_time, start="2026-01-01", days=1.5)
    assert "days:" in message
    assert "start:" not in message


@pytest.mark.parametrize(
    ("tool", "arguments", "word"),
    [
        (clock.add_time, {}, "start"),
        (clock.add_time, {"start": "2026-01-31", "day": 1}, "days"),
        (clock.add_time, {"start": "2026-01-31", "days": "many"}, "days"),
        (clock.convert_time, {"time": "2026-01-31"}, "to_zone"),
        (clock.time_between, {"start": "2026-01-31"}, "end"),
        (clock.now, {"zone": 5}, "zone"),
        (clock.now, {"timezone": "UTC"}, "zone"),
    ],
)
def test_arguments_that_dont_fit_are_named(tool: FunctionTool, arguments: dict[str, Any], word: str) -> None:
    assert word in refused(tool, **arguments)


# As a model meets it


def test_the_module_as_a_whole_gives_four_tools(endpoint: Endpoint) -> None:
    given_tools = definitions(endpoint, [clock])
    assert sorted(given_tools) == ["add_time", "convert_time", "now", "time_between"]
    texts = {
        (name, parameter): schema.get("description", "")
        for name, definition in given_tools.items()
        for parameter, schema in definition["parameters"]["properties"].items()
    }
    assert [place for place, text in texts.items() if not text] == []


def test_a_model_reads_the_result_as_json(endpoint: Endpoint) -> None:
    text = told(call(endpoint, [clock], "add_time", {"start": "2024-02-29", "years": 1}))
    assert '"time"' in text
    assert "2025-02-28T00:00:00+00:00" in text


@pytest.mark.parametrize("tool", [clock.now, clock.convert_time, clock.add_time, clock.time_between])
def test_each_says_that_it_changes_nothing_and_reaches_nothing(tool: FunctionTool) -> None:
    assert (tool.hints.read_only, tool.hints.destructive, tool.hints.open_world) == (True, False, False)


def test_only_the_current_time_differs_from_call_to_call() -> None:
    answers: list[Callable[..., Any]] = [clock.convert_time, clock.add_time, clock.time_between]
    assert [tool.hints.idempotent for tool in answers] == [True, True, True]
    assert clock.now.hints.idempotent is False
