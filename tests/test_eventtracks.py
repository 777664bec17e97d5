"""Events by scores over time: whatever comes in whatever pieces, they are those of a plain reference."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Event, EventRule, Track

OF = {"source": "gate", "region": None, "filter": "who", "label": "person", "clock": "utc"}


def reference(rule, frames, times, scores):
    """The events that are over, frame by frame."""
    events, open_, up, last_s = [], None, False, -math.inf

    def close():
        if open_ and open_[-1][1] - open_[0][1] >= rule.min_s:
            best = max(open_, key=lambda row: row[2])
            events.append((open_[0][0], open_[-1][0], best[0]))

    for frame, time_s, score in zip(frames, times, scores, strict=True):
        last_s = max(last_s, -math.inf if math.isnan(time_s) else time_s)
        up = score >= rule.on or (up and score >= rule.off)
        if open_ and last_s - open_[-1][1] > rule.gap_s:
            close()
            open_ = None
        if up:
            open_ = [*(open_ or []), (frame, last_s, score)]
    close()
    return events


@given(
    rule=st.builds(
        EventRule,
        on=st.sampled_from([0.5, 0.7]),
        off=st.sampled_from([0.3, 0.5]),
        min_s=st.sampled_from([0.0, 0.3, 1.0]),
        gap_s=st.sampled_from([0.0, 0.25, 1.0]),
    ),
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.2, 3.0, -1.0, math.nan]), st.sampled_from([0.1, 0.4, 0.6, 0.9]), st.booleans()
        ),
        max_size=40,
    ),
)
def test_events_are_those_of_a_plain_reference_in_whatever_pieces_rows_come(rule, rows):
    frames, times, scores = list(range(len(rows))), [], []
    now_s = 0.0
    for step_s, score, _ in rows:
        now_s += 0.0 if math.isnan(step_s) else step_s
        times.append(math.nan if math.isnan(step_s) else now_s)
        scores.append(np.float32(score))
    track, told, start = Track(rule, **OF), [], 0
    for stop in [*(k + 1 for k, row in enumerate(rows) if row[2]), len(rows)]:
        piece = slice(start, stop)
        told += track.add(
            np.array(frames[piece], np.int64), np.array(times[piece]), np.array(scores[piece], np.float32)
        )
        start = stop
    told += track.close()
    over = [(event.first_frame, event.last_frame, event.best_frame) for event in told if event.is_over]
    assert over == reference(rule, frames, times, [float(score) for score in scores])
    assert len({event.key for event in told}) == len(over)
    began = [event.first_frame for event in told if not event.is_over]
    assert began == [first for first, _, _ in over]  # each is told once when it begins, and before it ends
    assert [event.is_over for event in told] == [False, True] * len(over)


def test_an_event_is_told_as_soon_as_it_was_there_for_long_enough_and_gone_for_long_enough():
    track = Track(EventRule(on=0.6, off=0.4, min_s=0.2, gap_s=0.5), **OF)
    scores = [0.9, 0.5, 0.7, 0.1, 0.1, 0.8, *[0.1] * 7]
    heard = [
        (n, event)
        for n, score in enumerate(scores)
        for event in track.add(np.array([n]), np.array([n / 10]), np.array([score], np.float32))
    ]
    (began_at, began), (over_at, over) = heard
    assert (began_at, began.first_frame, began.is_over) == (2, 0, False)
    assert (over_at, over.last_frame, over.is_over) == (11, 5, True)
    assert over == Event(
        **OF,
        first_frame=0,
        last_frame=5,
        began_s=0.0,
        ended_s=0.5,
        best_frame=0,
        best_score=over.best_score,
        is_over=True,
    )


@pytest.mark.parametrize(
    "wrong", [{"on": 0.3, "off": 0.5}, {"off": 0.0}, {"on": 1.5}, {"min_s": -1.0}, {"gap_s": math.nan}]
)
def test_a_rule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        EventRule(**wrong)
