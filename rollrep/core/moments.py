"""The one grammar of time: what a person writes after `--at`, as a value.

    latest                          Latest
    point:17                        ByPoint     the consistency point with this number
    label:before-deploy             ByLabel
    id:45678                        ById        the log row with this id
    @1767225600  @1767225600.5      ByTime      seconds since 1970
    2026-11-22T19:08:01.123Z        ByTime      ISO 8601; without a zone, the local one
    2026-11-22                      ByTime      the start of that day
    now  2h ago  90 seconds ago     ByTime
    yesterday 14:30  monday 9am     ByTime
    22 nov 2026 19:00               ByTime

Strict rules come first.  Only the day of the last two lines is dateparser's to read: it would take `10` for
the tenth of last month, `01/02/2026` for January, and `yesterday at 25:00` for this time yesterday.  Wall
clock times that a change of the clocks skips or repeats are refused: a restore must not guess an hour.

Pure: the present and the zone are arguments.  Does not know: the timeline, whether such a point exists.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re

from rollrep.core import units
from rollrep.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Latest:
    """The newest point there is."""


@dataclasses.dataclass(frozen=True)
class ByPoint:
    """The point with this number."""

    number: int


@dataclasses.dataclass(frozen=True)
class ByLabel:
    """The last point with this label."""

    label: str


@dataclasses.dataclass(frozen=True)
class ById:
    """The point at this log id."""

    id: int


@dataclasses.dataclass(frozen=True)
class ByTime:
    """`moment` is aware and in UTC."""

    moment: dt.datetime


Moment = Latest | ByPoint | ByLabel | ById | ByTime

EXAMPLES = "latest, point:17, label:before-deploy, id:45678, 2026-11-22T19:08:01Z, 2h ago, yesterday 14:30"
_REMEDY = f"write one of these: {EXAMPLES}"
_LARGEST_ID = 2**63 - 1

# Patterns are compiled when they are needed: most moments need one of them.
_PREFIXED = r"([a-z]+):(.*)"
_EPOCH = r"@(\d{1,12}(?:\.\d+)?)"
_ZONE = r"(?P<zone>z|utc|gmt|[+-]\d{2}:?\d{2})"
_ISO = (
    r"(?P<day>\d{4}-\d{2}-\d{2})"
    rf"(?:[t ](?P<clock>\d{{2}}:\d{{2}}(?::\d{{2}}(?:[.,]\d+)?)?) ?{_ZONE}?)?"
)
_AGO = r"(?P<amount>(?:\d|an? ).*?)\s*ago"
_UNIT_WORDS = (
    (r"s(?:ec(?:ond)?s?)?", "s"), (r"m(?:in(?:ute)?s?)?", "m"), (r"h(?:(?:ou)?rs?)?", "h"),
    (r"d(?:ays?)?", "d"), (r"w(?:eeks?)?", "w"),
)  # fmt: skip
_WEEKDAY = r"(?:last )?(?P<weekday>mon|tue|wed|thu|fri|sat|sun)(?:day|sday|s|nesday|rsday|rs|urday)?"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_ORDINAL = r"\d{1,2}(?:st|nd|rd|th)?"
_WORDS = (
    rf"(?P<day>yesterday|today|{_WEEKDAY}|{_ORDINAL} {_MONTH},? \d{{4}}|{_MONTH} {_ORDINAL},? \d{{4}})"
    rf"(?:,? (?:at )?(?P<clock>\d{{1,2}}(?::\d{{2}}(?::\d{{2}})?)?)(?P<half> ?[ap]m)?(?: ?{_ZONE})?)?"
)
_CALENDAR_AGO = r"(?:an?|\d{1,4}) (?:month|year)s? ago"


def parse_moment(text: str, *, now: dt.datetime, zone: dt.tzinfo | None = None) -> Moment:
    """What `text` means at `now`, to somebody in `zone` (None: this machine's own).

    >>> now = dt.datetime(2026, 11, 22, 19, 8, tzinfo=dt.UTC)
    >>> parse_moment("point:17", now=now), parse_moment("label:before deploy", now=now)
    (ByPoint(number=17), ByLabel(label='before deploy'))
    >>> for text in ("@1767225600", "2026-11-22T20:00+01:00", "2h ago", "yesterday 14:30"):
    ...     found = parse_moment(text, now=now, zone=dt.UTC)
    ...     print(found.moment)
    2026-01-01 00:00:00+00:00
    2026-11-22 19:00:00+00:00
    2026-11-22 17:08:00+00:00
    2026-11-21 14:30:00+00:00
    >>> parse_moment("17", now=now)
    Traceback (most recent call last):
    rollrep.core.errors.UsageError: "17" alone could mean many things; write point:17, id:17 or @17
    """
    prefixed = re.fullmatch(_PREFIXED, text.lstrip(), re.DOTALL)
    if prefixed:
        return _by_prefix(text, *prefixed.groups())
    plain = " ".join(text.lower().split())
    if plain == "latest":
        return Latest()
    try:
        return ByTime(_by_time(text, plain, now, zone))
    except OverflowError:
        raise UsageError(f'"{text}" is beyond the calendar', remedy=_REMEDY) from None


def show_distance(moment: dt.datetime, other: dt.datetime) -> str:
    """How far `moment` is from `other`, and on which side.

    >>> noon = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
    >>> show_distance(noon - dt.timedelta(seconds=192), noon), show_distance(noon, noon)
    ('3 min 12 s earlier', 'exactly then')
    """
    seconds = (moment - other).total_seconds()
    if not seconds:
        return "exactly then"
    return f"{units.show_duration(seconds)} {'later' if seconds > 0 else 'earlier'}"


def _by_prefix(text: str, prefix: str, rest: str) -> Moment:
    if prefix == "label":
        if not rest.strip():
            raise UsageError(f'"{text}" names no label', remedy="write label:before-deploy")
        return ByLabel(rest)
    if prefix in ("point", "id"):
        if not re.fullmatch(r"\d{1,19}", rest, re.ASCII) or int(rest) > _LARGEST_ID:
            raise UsageError(f'"{text}" needs a whole number after the colon', remedy=f"write {prefix}:17")
        return ByPoint(int(rest)) if prefix == "point" else ById(int(rest))
    import difflib

    near = difflib.get_close_matches(prefix, ["point", "label", "id"], n=1)
    remedy = f"did you mean {near[0]}:{rest}?" if near else _REMEDY
    raise UsageError(f'"{text}" is not a moment', remedy=remedy)


def _by_time(text: str, plain: str, now: dt.datetime, zone: dt.tzinfo | None) -> dt.datetime:
    if plain == "now":
        return now.astimezone(dt.UTC)
    if found := re.fullmatch(_EPOCH, plain, re.ASCII):
        import decimal

        microseconds = int(decimal.Decimal(found[1]) * 1_000_000)
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)
    if found := re.fullmatch(_ISO, plain, re.ASCII):
        return _combined(text, found["day"], found["clock"], _zone(found["zone"], zone))
    if found := re.fullmatch(_AGO, plain, re.ASCII):
        ago = _seconds(found["amount"])
        if ago is not None:
            return now.astimezone(dt.UTC) - dt.timedelta(seconds=ago)
    _refuse_the_ambiguous(text, plain)
    if re.fullmatch(_CALENDAR_AGO, plain, re.ASCII):
        return _to_utc(text, _dateparser(text, plain, now, zone), zone)
    if found := re.fullmatch(_WORDS, plain, re.ASCII):
        zone = _zone(found["zone"], zone)
        day = _dateparser(text, found["weekday"] or found["day"], now, zone).date()
        return _combined(text, day.isoformat(), _clock(text, found["clock"], found["half"]), zone)
    raise UsageError(f'"{text}" is not a moment', remedy=_REMEDY)


def _refuse_the_ambiguous(text: str, plain: str) -> None:
    if re.fullmatch(r"\d+", plain, re.ASCII):
        remedy = f"write point:{plain}, id:{plain} or @{plain}"
        raise UsageError(f'"{text}" alone could mean many things', remedy=remedy)
    if re.search(r"\d[/.]\d", plain):
        raise UsageError(f'"{text}" may be day before month or month before day', remedy="write the date as 2026-11-22")
    if re.fullmatch(r"\d{1,2}(:\d{2}){1,2}( ?[ap]m)?", plain, re.ASCII):
        remedy = f"write today {plain} or yesterday {plain}"
        raise UsageError(f'"{text}" does not say which day', remedy=remedy)
    if _seconds(plain) is not None:
        raise UsageError(f'"{text}" is a duration, not a moment', remedy=f"write {plain} ago")


def _seconds(amount: str) -> float | None:
    """Seconds of "90 seconds", "1h30m", "an hour" or "1 hour and 5 minutes"; None when it is none of them."""
    short = re.sub(r"\band\b|[ ,]", "", re.sub(r"^an? ", "1", amount))
    for words, unit in _UNIT_WORDS:
        short = re.sub(rf"(?<=\d){words}(?=\d|$)", unit, short)
    try:
        return units.parse_duration_s(short)
    except UsageError:
        return None


def _zone(text: str | None, otherwise: dt.tzinfo | None) -> dt.tzinfo | None:
    if text is None:
        return otherwise
    if text[0] not in "+-":
        return dt.UTC
    ahead = dt.timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    if ahead >= dt.timedelta(days=1):
        raise UsageError(f'"{text}" is no zone', remedy="write the zone as Z or +01:00")
    return dt.timezone(-ahead if text[0] == "-" else ahead)


def _clock(text: str, clock: str | None, half: str | None) -> str | None:
    """`clock` as ISO 8601 wants it; `half` is "am", "pm" or None."""
    if clock is None:
        return None
    hour, colon, rest = clock.partition(":")
    if half:
        if not 1 <= int(hour) <= 12:
            raise UsageError(f'"{text}" has no such hour', remedy="write 1am to 12pm, or 00:00 to 23:59")
        hour = str(int(hour) % 12 + (12 if half.strip() == "pm" else 0))
    elif not colon:
        raise UsageError(f'"{text}" may be an hour or something else', remedy=f"write {hour}:00")
    return f"{int(hour):02d}:{rest or '00'}"


def _combined(text: str, day: str, clock: str | None, zone: dt.tzinfo | None) -> dt.datetime:
    try:
        wall = dt.datetime.fromisoformat(f"{day}T{clock or '00:00'}")
    except ValueError as error:
        raise UsageError(f'"{text}" is not in the calendar ({error})', remedy=_REMEDY) from None
    return _to_utc(text, wall, zone, strict=clock is not None)


def _to_utc(text: str, wall: dt.datetime, zone: dt.tzinfo | None, *, strict: bool = True) -> dt.datetime:
    """The moment at which a clock in `zone` shows `wall`; refused when there are none or two.

    Not strict: the start of a day, which exists even where the clocks change at midnight.
    """
    try:
        first, second = sorted(_attach(wall.replace(fold=fold), zone) for fold in (0, 1))
        # Not by which fold is the later: in a gap, ZoneInfo and this machine's own zone differ about that.
        exists = first.astimezone(zone).replace(tzinfo=None, fold=0) == wall.replace(fold=0)
    except (ValueError, OverflowError):
        raise UsageError(f'"{text}" is beyond the calendar', remedy=_REMEDY) from None
    if not exists and strict:
        raise UsageError(f'"{text}" was skipped when the clocks went forward', remedy="add the zone, as Z or +01:00")
    if exists and strict and first < second:
        raise UsageError(
            f'"{text}" came twice, when the clocks went back',
            remedy=f"write {first:%Y-%m-%dT%H:%M:%SZ} or {second:%Y-%m-%dT%H:%M:%SZ}",
        )
    return first if exists else second


def _attach(wall: dt.datetime, zone: dt.tzinfo | None) -> dt.datetime:
    local = wall if zone is None else wall.replace(tzinfo=zone)  # astimezone takes a naive time as local
    return local.astimezone(dt.UTC)


def _dateparser(text: str, words: str, now: dt.datetime, zone: dt.tzinfo | None) -> dt.datetime:
    """`words` as a wall clock time in `zone`, by dateparser."""
    import dateparser  # type: ignore[import-untyped]  # slow, and `--at latest` need not wait for it

    base = now.astimezone(zone).replace(tzinfo=None)
    # Wall clock times only: with a zone of its own to look up it fails where TZ names none.
    settings = {"RELATIVE_BASE": base, "PREFER_DATES_FROM": "past", "TIMEZONE": "UTC"}
    found: dt.datetime | None = dateparser.parse(words, languages=["en"], settings=settings)
    if found is None or found.tzinfo is not None:
        raise UsageError(f'"{text}" is not a moment', remedy=_REMEDY)
    return found
