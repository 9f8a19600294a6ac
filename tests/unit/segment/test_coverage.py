"""Coverage: what is held is found, and nothing is reused that does not have the very tokens."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparsex.config import SegmentConfig
from raysparsex.ids import ModelFingerprint, SegmentId, TrustSalt
from raysparsex.segment.coverage import SegmentRecord, find_coverage
from raysparsex.segment.identity import SegmentHasher, token_bytes
from raysparsex.segment.split import split

MIN_TOKENS = 16
MAX_DEPTH = 4


def random_tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, 50_000, count).astype(np.int32)


def joined(*parts):
    return np.concatenate(parts).astype(np.int32)


class Shelf:
    """Records of published prompts, as a store would hold them: the first copy stays."""

    def __init__(self, config=SegmentConfig(), salt="tenant"):  # noqa: B008 (frozen)
        self.config = config
        self.hasher = SegmentHasher(ModelFingerprint("model"), TrustSalt(salt))
        self.records: dict[SegmentId, SegmentRecord] = {}

    def cut(self, tokens, boundaries=()):
        cuts = split(tokens, boundaries, self.config)
        return cuts, self.hasher.ids(tokens, cuts)

    def publish(self, tokens, boundaries=(), depth=0):
        cuts, ids = self.cut(tokens, boundaries)
        neighbours = [None, *ids, None]
        for index, (start, end) in enumerate(itertools.pairwise(cuts.tolist())):
            record = SegmentRecord(
                id=ids[index],
                tokens=token_bytes(tokens[start:end]),
                base_position=start,
                depth=depth,
                context_free=False,
                previous=neighbours[index],
                following=neighbours[index + 2],
            )
            self.records.setdefault(record.id, record)

    def cover(self, tokens, boundaries=(), find=None, first=0, last=None, min_tokens=MIN_TOKENS):
        cuts, ids = self.cut(tokens, boundaries)
        return find_coverage(
            tokens,
            cuts,
            ids,
            find or self.records.get,
            first=first,
            last=len(tokens) if last is None else last,
            min_tokens=min_tokens,
            max_depth=MAX_DEPTH,
        )


def covered(spans):
    return {place for span in spans for place in range(span.start, span.end)}


def assert_sound(spans, tokens, find, first, last):
    """Ordered, disjoint, inside [first, last), and equal to the record that each span names."""
    edges = [first, *(edge for span in spans for edge in (span.start, span.end)), last]
    assert edges == sorted(edges)
    for span in spans:
        assert span.end > span.start
        record = find(span.segment)
        held = np.frombuffer(record.tokens, dtype="<i4")[span.offset :]
        assert np.array_equal(tokens[span.start : span.end], held[: span.end - span.start])
        assert span.base_position == record.base_position + span.offset
        assert span.depth == record.depth < MAX_DEPTH


def test_a_prompt_seen_before_is_covered_whole_at_shift_zero():
    shelf, tokens = Shelf(), random_tokens(1000)
    shelf.publish(tokens)
    spans = shelf.cover(tokens)
    assert covered(spans) == set(range(1000))
    assert {span.shift for span in spans} == {0}


def test_an_unknown_prompt_and_an_empty_one_are_not_covered():
    shelf = Shelf()
    shelf.publish(random_tokens(1000))
    assert shelf.cover(random_tokens(1000, seed=1)) == []
    assert shelf.cover(random_tokens(0)) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_moved_document_inside_a_long_message_is_reused_nearly_whole(seed):
    parts = [random_tokens(count, 100 * seed + count) for count in (500, 200, 501, 700, 301)]
    before, document, behind, new_before, new_behind = parts
    shelf = Shelf()
    shelf.publish(joined(before, document, behind))
    prompt = joined(new_before, document, new_behind)
    spans = shelf.cover(prompt)
    assert_sound(spans, prompt, shelf.records.get, 0, len(prompt))
    assert len(covered(spans) & set(range(700, 900))) >= 0.95 * 200
    assert {span.shift for span in spans} == {200}


def test_without_neighbours_the_edges_of_a_moved_document_would_be_lost():
    document, shelf = random_tokens(200), Shelf()
    shelf.publish(joined(random_tokens(500, 1), document, random_tokens(500, 2)))
    prompt = joined(random_tokens(700, 3), document, random_tokens(300, 4))
    alone = {
        i: dataclasses.replace(record, previous=None, following=None)
        for i, record in shelf.records.items()
    }
    assert len(covered(shelf.cover(prompt, find=alone.get))) < len(covered(shelf.cover(prompt)))


def test_an_edit_inside_a_document_costs_only_the_edited_token():
    document, shelf = random_tokens(600), Shelf()
    shelf.publish(document)
    edited = np.insert(document, 300, 7)
    spans = shelf.cover(edited)
    assert covered(spans) == set(range(601)) - {300}
    assert {span.shift for span in spans if span.start > 300} == {1}


def test_a_match_grows_past_a_neighbour_only_if_all_of_the_neighbour_agrees():
    shelf, (one, two, three) = Shelf(), random_tokens(60).reshape(3, 20)
    shelf.publish(joined(one, two, three), boundaries=[20, 40])
    rightwards = joined(one, two[:10], three, random_tokens(30, 1))
    assert covered(shelf.cover(rightwards, boundaries=[20])) == set(range(30))
    leftwards = joined(random_tokens(30, 1), one, two[10:], three)
    assert covered(shelf.cover(leftwards, boundaries=[60])) == set(range(50, 80))


def test_a_document_standing_twice_is_covered_twice():
    document, shelf = random_tokens(300), Shelf()
    shelf.publish(document)
    prompt = joined(document, random_tokens(64, 1), document)
    spans = shelf.cover(prompt)
    assert covered(spans) >= set(range(300)) | set(range(364, 664))
    assert {span.shift for span in spans} == {0, 364}


def test_a_match_that_crosses_the_prefix_hit_or_the_last_token_is_clipped():
    shelf, tokens = Shelf(), random_tokens(400)
    shelf.publish(tokens)
    spans = shelf.cover(tokens, first=128, last=399)
    assert covered(spans) == set(range(128, 399))
    assert_sound(spans, tokens, shelf.records.get, 128, 399)


def test_text_shared_by_chance_is_not_reused_in_crumbs():
    shelf, greeting = Shelf(), random_tokens(6)
    shelf.publish(joined(greeting, random_tokens(100, 1)), boundaries=[6])
    prompt = joined(greeting, random_tokens(100, 2))
    assert shelf.cover(prompt, boundaries=[6]) == []
    assert covered(shelf.cover(prompt, boundaries=[6], min_tokens=6)) == set(range(6))


def test_short_segments_that_stood_together_count_as_one_run():
    shelf, tokens = Shelf(), random_tokens(24)
    shelf.publish(tokens, boundaries=[8, 16])
    assert covered(shelf.cover(tokens, boundaries=[8, 16])) == set(range(24))
    swapped = joined(tokens[8:16], tokens[:8], random_tokens(30, 1))
    assert shelf.cover(swapped, boundaries=[8, 16]) == []


def test_drift_never_builds_up_past_the_depth_bound():
    for depth, reused in ((MAX_DEPTH - 1, True), (MAX_DEPTH, False)):
        shelf, tokens = Shelf(), random_tokens(300)
        shelf.publish(tokens, depth=depth)
        assert bool(shelf.cover(tokens)) is reused


def test_drift_does_not_enter_through_a_neighbour_that_is_too_deep():
    shelf, tokens = Shelf(), random_tokens(300)
    shelf.publish(tokens)
    deep = dict(list(shelf.records.items())[3:5])
    for segment, record in deep.items():
        shelf.records[segment] = dataclasses.replace(record, depth=MAX_DEPTH)
    spans = shelf.cover(np.insert(tokens, 150, 7))
    assert spans and not {span.segment for span in spans} & set(deep)


def test_no_segment_is_reused_across_tenants():
    mine, theirs, tokens = Shelf(salt="mine"), Shelf(salt="theirs"), random_tokens(300)
    theirs.publish(tokens)
    assert mine.cover(tokens, find=theirs.records.get) == []
    # even a finder that hands out their record for my id does not get it used
    by_place = dict(zip(mine.cut(tokens)[1], theirs.records.values(), strict=True))
    assert mine.cover(tokens, find=by_place.get) == []


def test_a_hash_collision_costs_a_miss_and_never_a_wrong_answer():
    shelf, tokens = Shelf(), random_tokens(300)
    shelf.publish(random_tokens(300, 1))
    impostor = next(iter(shelf.records.values()))
    assert shelf.cover(tokens, find=lambda asked: dataclasses.replace(impostor, id=asked)) == []


small = SegmentConfig(min_tokens=2, average_tokens=5, max_tokens=12)
texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=3), texts, st.randoms(), st.data())
def test_no_finder_however_wrong_makes_coverage_overlap_leave_its_bounds_or_lie(
    published, filler, random, data
):
    shelf = Shelf(small)
    for depth, text in enumerate(published):
        shelf.publish(np.array(text, dtype=np.int32), depth=depth)
    prompt = np.array([*published[0], *filler, *published[-1], *published[0]], dtype=np.int32)
    first = data.draw(st.integers(0, len(prompt)))
    last = data.draw(st.integers(first, len(prompt)))
    _, ids = shelf.cut(prompt)
    anything = [*shelf.records.values(), None]
    wrong = {
        asked: record and dataclasses.replace(record, id=asked)
        for asked in {*ids, *shelf.records}
        if (record := random.choice(anything)) or True
    }
    mixed = {**shelf.records, **dict(random.sample(sorted(wrong.items()), len(wrong) // 2))}
    for records in (shelf.records, mixed):
        spans = shelf.cover(prompt, find=records.get, first=first, last=last, min_tokens=3)
        assert_sound(spans, prompt, records.get, first, last)
    assert shelf.cover(prompt, find=wrong.get, first=first, last=first) == []
