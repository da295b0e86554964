"""
The time, and arithmetic with dates: models don't know the one and are bad at the other.

```python
from llama_agent import Agent
from llama_agent_tools import clock

agent = Agent(tools=[clock])
```

Times are ISO 8601, zones are names of the IANA time zone database.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from dateutil.relativedelta import relativedelta
from pydantic import BeforeValidator

from llama_agent import ToolRetry, tool

__all__ = ["add_time", "convert_time", "now", "time_between"]

_Moment = dict[str, str]
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])(\d{1,2})(?::?(\d{2}))?", re.IGNORECASE)


def _from_day(value: object) -> object:
    """A day alone is its beginning."""
    is_day = isinstance(value, str) and _DAY.fullmatch(value.strip())
    return f"{str(value).strip()}T00:00:00" if is_day else value


_Time = Annotated[datetime, BeforeValidator(_from_day)]


@tool(read_only=True, open_world=False)
def now(zone: str = "UTC") -> _Moment:
    """
    Tell the current date, time and weekday.

    Args:
        zone: Time zone, e.g. "Europe/Paris" or "America/New_York".

    """
    return _moment(datetime.now(_zone(zone)).replace(microsecond=0))


@tool(read_only=True, idempotent=True, open_world=False)
def convert_time(time: _Time, to_zone: str, from_zone: str = "UTC") -> _Moment:
    """
    Tell what a time in one zone is in another.

    Args:
        time: Date and time, e.g. "2026-01-31T12:00".
        to_zone: Time zone that is wanted, e.g. "Asia/Tokyo".
        from_zone: Time zone of the given time, if it doesn't say one itself.

    """
    try:
        return _moment(_in_zone(time, from_zone).astimezone(_zone(to_zone)))
    except OverflowError as error:
        raise ToolRetry("the result is outside of the years 1 to 9999") from error


@tool(read_only=True, idempotent=True, open_world=False)
def add_time(
    start: _Time,
    years: int = 0,
    months: int = 0,
    weeks: int = 0,
    days: int = 0,
    hours: int = 0,
    minutes: int = 0,
    seconds: int = 0,
    zone: str = "UTC",
) -> _Moment:
    """
    Add to a date or time; negative numbers subtract. Tells the date, time and weekday.

    Years to days keep the time of day, also over a change to summer time; the 31st becomes the last day of a
    shorter month.

    Args:
        start: Date, or date and time, e.g. "2026-01-31" or "2026-01-31T12:00".
        years: Years to add.
        months: Months to add.
        weeks: Weeks to add.
        days: Days to add.
        hours: Hours to add.
        minutes: Minutes to add.
        seconds: Seconds to add.
        zone: Time zone of the start, if it doesn't say one itself.

    """
    try:
        local = _in_zone(start, zone) + relativedelta(years=years, months=months, weeks=weeks, days=days)
        # A time of day that doesn't exist that day (summer time) becomes the one an hour later.
        absolute = local.astimezone(UTC) + timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return _moment(absolute.astimezone(local.tzinfo))
    except (OverflowError, ValueError) as error:
        raise ToolRetry("the result is outside of the years 1 to 9999") from error


@tool(read_only=True, idempotent=True, open_world=False)
def time_between(start: _Time, end: _Time, zone: str = "UTC") -> dict[str, str | int | float]:
    """
    Tell how much time lies between two dates or times.

    Args:
        start: First date, or date and time, e.g. "2026-01-31" or "2026-01-31T12:00".
        end: Second date, or date and time. Negative numbers come out when it lies before the start.
        zone: Time zone of both, if they don't say one themselves.

    """
    first = _in_zone(start, zone)
    try:
        second = _in_zone(end, zone).astimezone(first.tzinfo)
        seconds = (second.astimezone(UTC) - first.astimezone(UTC)).total_seconds()
        calendar, rest = _calendar_parts(first, second)
    except (OverflowError, ValueError) as error:
        raise ToolRetry("a time is outside of the years 1 to 9999") from error
    hours, minutes = divmod(abs(int(rest)), 3600)
    sign = 1 if rest >= 0 else -1
    units = {
        "years": calendar.years,
        "months": calendar.months,
        "days": calendar.days,
        "hours": sign * hours,
        "minutes": sign * (minutes // 60),
        "seconds": sign * (minutes % 60),
    }
    told = [f"{number} {unit if abs(number) != 1 else unit[:-1]}" for unit, number in units.items() if number]
    return {
        "calendar": ", ".join(told) or "no time",
        "calendar_days": date.toordinal(second.date()) - date.toordinal(first.date()),
        "weekdays_from_monday_to_friday": _working_days(first.date(), second.date()),
        "total_hours": _short(seconds / 3600),
        "total_seconds": _short(seconds),
    }


def _calendar_parts(first: datetime, second: datetime) -> tuple[relativedelta, float]:
    """
    Years, months and days by the calendar, and the seconds that really pass beyond them, which aren't what
    the clock shows when summer time begins or ends between.
    """
    whole = relativedelta(second.replace(tzinfo=None), first.replace(tzinfo=None))
    days = relativedelta(years=whole.years, months=whole.months, days=whole.days)
    end = second.astimezone(UTC)
    rest = (end - (first + days).astimezone(UTC)).total_seconds()
    forward = end >= first.astimezone(UTC)
    if rest and (rest > 0) != forward and days:
        days += relativedelta(days=-1 if forward else 1)
        rest = (end - (first + days).astimezone(UTC)).total_seconds()
    return days, rest


def _moment(time: datetime) -> _Moment:
    return {
        "time": time.isoformat(),
        "weekday": f"{time:%A}",
        "zone": str(time.tzinfo),
        "week": f"{time.isocalendar().year}-W{time.isocalendar().week:02}",
    }


def _in_zone(time: datetime, zone: str) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=_zone(zone))


def _zone(name: str) -> tzinfo:
    if (offset := _OFFSET.fullmatch(name.strip())) and int(offset[2]) < 24 and int(offset[3] or 0) < 60:
        # As people mean it: `Etc/GMT+2` of the database lies west of Greenwich.
        away = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        return timezone(away if offset[1] == "+" else -away)
    try:
        return ZoneInfo(name.strip())
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    zones = sorted(available_timezones())
    wanted = name.strip().replace(" ", "_").casefold()
    # A city alone, or a name in other letters, is clear enough when it is the only one.
    whole = [zone for zone in zones if wanted == zone.casefold()]
    last = [zone for zone in zones if wanted == zone.rpartition("/")[2].casefold()]
    same = whole[:1] or [zone for zone in last if not zone.startswith("Etc/")]
    if len(same) == 1:
        return ZoneInfo(same[0])
    near = same or difflib.get_close_matches(name, zones, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ToolRetry(f"there is no time zone '{name[:80]}'{hint} Write e.g. Europe/Paris, UTC or +02:00.")


def _working_days(start: date, end: date) -> int:
    """Mondays to Fridays from the first day up to, and without, the last."""
    sign = 1
    if end < start:
        start, end, sign = end, start, -1
    weeks, rest = divmod((end - start).days, 7)
    return sign * (weeks * 5 + sum((start.weekday() + day) % 7 < 5 for day in range(rest)))


def _short(number: float) -> int | float:
    return int(number) if number == int(number) else round(number, 6)
