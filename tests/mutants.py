"""The mutants: rollrep with one rule broken at a time, and the test that must see it.

    Mutant(name, file, text, instead, scenario, says)

`text` stands exactly once in `file`; in a copy of the package it becomes `instead`.  `scenario` are tests, as pytest
names them, that pass on the code as it is and must fail on the copy, with `says` (a regular expression) in what they
print: so a mutant that only crashes counts for nothing.
"""

from __future__ import annotations

from typing import NamedTuple

TRAPS = "tests/test_traps.py::test_"
STEPS = "tests/test_steps.py::test_"
RANGES = "tests/test_forgotten_ranges.py::test_"
AGAIN = "tests/test_mirror_again.py::test_"
PATCHES = "tests/test_patches.py::test_"
VERIFY = "tests/test_verify.py::test_"
INSTALL = "tests/test_install.py::test_"
DROP = "tests/test_drop_column.py::test_"
PAST = "tests/test_past.py::test_"
DIFFERS = r"mirror\.db:\n|restored\.db:\n"
"""what the oracle says when a mirror or a restore is not the source"""


class Mutant(NamedTuple):
    name: str
    file: str
    text: str
    instead: str
    scenario: str
    says: str = DIFFERS


MUTANTS = (
    Mutant(
        "values are compared by <> at the mirror",
        "core/sql.py",
        'f"({mine} COLLATE BINARY IS NOT {other} OR typeof',
        'f"({mine} COLLATE BINARY <> {other} OR typeof',
        TRAPS + "value_arrives_when_only_its_storage_class_or_case_changes",
    ),
    Mutant(
        "values are compared by <> in the trigger",
        "source/capture.py",
        'return f"{old} COLLATE BINARY IS NOT {new}"',
        'return f"{old} COLLATE BINARY <> {new}"',
        PATCHES + "mirror_equals_source_when_rows_are_patched_at_random",
    ),
    Mutant(
        "a value that differs in letters alone is left out of a PATCH",
        "source/capture.py",
        'return f"{old} COLLATE BINARY IS NOT {new}"',
        'return f"{old} IS NOT {new}"',
        TRAPS + "value_arrives_when_only_its_storage_class_or_case_changes",
    ),
    Mutant(
        "storage classes are not compared",
        "core/sql.py",
        " OR typeof({mine}) <> typeof({other})",
        "",
        TRAPS + "value_arrives_when_only_its_storage_class_or_case_changes",
    ),
    Mutant(
        "two real zeros count as the same",
        "core/sql.py",
        "(typeof({other}) = 'real' AND {other} = 0.0)",
        "0",
        TRAPS + "value_arrives_when_only_its_storage_class_or_case_changes",
    ),
    Mutant(
        "a moved key is logged without its old one",
        "source/capture.py",
        'changed = [f"old.{term} IS NOT new.{sql.name(column)}"',
        'changed = [f"old.{term} IS NOT old.{sql.name(column)}"',
        TRAPS + "key_moves_arrive_when_it_is_set_by_the_name_rowid",
        DIFFERS + "|does not have",
    ),
    Mutant(
        "a PATCH has a wrong bit in its mask",
        "source/capture.py",
        "for n, column in enumerate(rest, 1))]",
        "for n, column in enumerate(rest, 2))]",
        PATCHES + "row_put_and_patched_in_one_pull_is_whole",
    ),
    Mutant(
        "nothing is TOUCHED",
        "source/capture.py",
        "    if plan.uniques:\n        made = {",
        "    if False:\n        made = {",
        TRAPS + "row_removed_by_replace_is_gone_when_the_replacing_row_changes_again",
    ),
    Mutant(
        "net replay although a TOUCHED is open",
        "destination/replay.py",
        "or (Op.TOUCHED in ops and self._has_open_touch(shape, first, last))",
        "or False",
        TRAPS + "row_removed_by_replace_is_gone_when_the_replacing_row_changes_again",
    ),
    Mutant(
        "what OR REPLACE puts in the place of a NULL is not probed",
        "source/capture.py",
        'return f"ifnull({new}, {plan.defaults[column]})" if column in plan.defaults else new',
        "return new",
        TRAPS + "row_is_gone_when_the_default_of_a_replacing_row_collides_with_it",
        DIFFERS + "|can't be replayed",
    ),
    Mutant(
        "rows are not read again beside triggers of the application's own",
        "source/inspect.py",
        "reread=reread,",
        "reread=False,",
        TRAPS + "row_is_right_when_a_trigger_changes_first_what_the_statement_sets_back",
    ),
    Mutant(
        "rows are not read again where foreign keys act",
        "source/inspect.py",
        "        found.update((child.casefold(), parent.casefold()))\n",
        "        pass\n",
        TRAPS + "row_removed_by_replace_is_gone_when_its_cascade_removes_the_updated_row",
    ),
    Mutant(
        "no touched keys are pending",
        "source/capture.py",
        "    if plan.reread:\n        before_update.extend(",
        "    if False:\n        before_update.extend(",
        TRAPS + "row_removed_by_replace_is_gone_when_its_cascade_removes_the_updated_row",
    ),
    Mutant(
        "capture stays the older trigger",
        "source/capturing.py",
        "if any(rowid > oldest_of_ours for rowid, name, _ in rows if name not in ours):",
        "if False:",
        TRAPS + "row_arrives_when_another_trigger_that_ends_the_statement_was_made_after_ours",
    ),
    Mutant(
        "nothing pins the rowids",
        "source/capturing.py",
        "    if plan.pin_rowids:\n",
        "    if False:\n",
        TRAPS + "rowids_stay_when_a_table_without_any_index_is_vacuumed",
        DIFFERS + "|does not have|schema",
    ),
    Mutant(
        "a column that may go is read as if it could not",
        "source/dropping.py",
        "    if not nulls:\n        return expression\n",
        "    return expression\n",
        DROP + "column_goes_when_its_index_went_first",
        "error in trigger _rollrep_",
    ),
    Mutant(
        "a table without the dropped column is not read again",
        "source/dropping.py",
        '+ (f" NATURAL LEFT JOIN',
        '+ (f" LEFT JOIN',
        DROP + "mirror_and_both_sides_of_it_are_right_when_a_column_is_dropped",
        "error in trigger _rollrep_|ambiguous column name",
    ),
    Mutant(
        "what schema_version tells is not asked",
        "source/readded.py",
        "count_changes(db) < 2",
        "count_changes(db) < 2_000",
        DROP + "table_is_mirrored_again_when_a_column_was_dropped_and_added_as_it_was",
        r"'resume', ''|'up_to_date', ''",
    ),
    Mutant(
        "a row shows that a column is what it was although it was written to since",
        "source/readded.py",
        " AND ({', '.join(keys)}) NOT IN ({logged}) LIMIT 1",
        " LIMIT 1",
        DROP + "table_is_mirrored_again_when_a_column_was_dropped_and_added_as_it_was",
        r"'resume', ''",
    ),
    Mutant(
        "a point is believed although a column may have been another before it",
        "source/log.py",
        "return log_id + 1 if found[1] == DOUBT_MARK else",
        "return",
        DROP + "table_is_mirrored_again_when_a_column_was_dropped_and_added_as_it_was",
        r"== \[\]",
    ),
    Mutant(
        "the newest row may be pruned",
        "source/tables.py",
        "    new.id - 1,\n",
        "    new.id,\n",
        INSTALL + "newest_row_is_never_pruned_when_every_limit_is_tiny",
        "AssertionError",
    ),
    Mutant(
        "the head of the log is no commit of the source",
        "source/log.py",
        '    ends = read_ends(db)\n    if ends is None:\n        raise RollrepError(f"the rolling log of',
        "    ends = read_ends(db)\n    ends = ends and Ends(ends.oldest, max(ends.oldest, ends.newest - 1))\n"
        '    if ends is None:\n        raise RollrepError(f"the rolling log of',
        TRAPS + "unique_values_that_swap_arrive_when_both_rows_are_in_one_batch",
    ),
    Mutant(
        "a replay is cut inside a transaction of the source",
        "destination/pull.py",
        "                self._out.operations += replay.window(first, min(head.id, first + WINDOW_ROWS - 1))\n",
        "                self._out.operations += replay.window(first, min(head.id, first + WINDOW_ROWS - 1))\n"
        "                mirror.execute('COMMIT')\n                mirror.execute('BEGIN')\n",
        STEPS + "reader_never_sees_half_a_transaction_when_it_is_replayed_in_windows",
        r"assert \{|assert set",
    ),
    Mutant(
        "the position is committed behind the rows",
        "destination/pull.py",
        "            apply_facts(mirror, facts, state.layout.shapes)\n            write_state(mirror, moved_to(state, facts))\n",
        "            apply_facts(mirror, facts, state.layout.shapes)\n        write_state(mirror, moved_to(state, facts))\n",
        STEPS + "rows_stay_out_when_the_process_dies_before_the_position_is_written",
        r"assert \(100, 22",
    ),
    Mutant(
        "a batch is archived with nothing in the catalog",
        "destination/archive.py",
        "        self._catalog.add_segment(self._found(path,",
        "        (self._found(path,",
        STEPS + "batch_is_archived_when_the_process_dies_in_its_replay",
        "AssertionError|assert ",
    ),
    Mutant(
        "resume without proof",
        "source/serve.py",
        "if proof != position.proof:",
        "if False:",
        TRAPS + "old_line_stays_restorable_when_the_source_was_restored_from_a_backup",
        r"'resume', ''|does not have|can't be replayed",
    ),
    Mutant(
        "another epoch's ids are believed",
        "source/serve.py",
        "if position.epoch != meta.epoch:",
        "if False:",
        TRAPS + "new_epoch_is_mirrored_when_somebody_empties_the_log",
        "AssertionError",
    ),
    Mutant(
        "a forgotten row is not told by its time",
        "source/serve.py",
        "and position.at_ms != forgotten_at_ms:",
        "and False:",
        AGAIN + "old_keys_are_not_believed_when_the_source_was_restored_and_its_log_went_past_the_mirror",
        r"'pruned'",
    ),
    Mutant(
        "what the lost history wrote is not compared",
        "destination/forgotten_spans.py",
        "numbers = {*told.numbers.get(shape.id, ()), *own.get(shape.id, ())}",
        "numbers = set(told.numbers.get(shape.id, ()))",
        RANGES + "rows_that_only_the_lost_history_wrote_are_compared_when_the_source_was_put_back",
    ),
    Mutant(
        "a forgotten range is as old as its oldest key",
        "source/tables.py",
        "max(f.id), f.at FROM {fallen}",
        "min(f.id), f.at FROM {fallen}",
        RANGES + "each_forgotten_key_lies_in_a_range_that_is_as_new",
        "assert",
    ),
    Mutant(
        "removals that nothing announced are looked for in ranges",
        "destination/forgotten_spans.py",
        "told.widths.get(shape.id) if shape.touches_logged else None",
        "told.widths.get(shape.id)",
        RANGES + "removed_row_is_gone_when_its_table_does_not_announce_removals",
        r"UNIQUE constraint failed",
    ),
    Mutant(
        "the schema's digest is not compared",
        "source/serve.py",
        "elif not reason and hello.schema_digest != self._digest:",
        "elif False:",
        TRAPS + "only_the_table_concerned_is_mirrored_when_the_schema_changes",
        r"'resume', ''",
    ),
    Mutant(
        "collations of keys are ignored in net replay",
        "destination/replay.py",
        "from rollrep.destination.net import key_columns, key_values, replay_net",
        "from rollrep.destination import net\nfrom rollrep.destination.net import key_columns, replay_net\n"
        "key_values = net.key_values = lambda shape: ', '.join(f'v{n}' for n in range(shape.key_width))",
        STEPS + "key_is_one_when_its_collation_says_so",
        DIFFERS + "|UNIQUE constraint failed|can't be replayed",
    ),
    Mutant(
        "rows that swap a UNIQUE value are not taken out first",
        "destination/net.py",
        "    moved = moved_bits(shape)\n",
        "    moved = 0\n",
        TRAPS + "unique_values_that_swap_arrive_when_both_rows_are_in_one_batch",
        "can't be replayed",
    ),
    Mutant(
        "of several PATCHes of a row the last one counts",
        "destination/net.py",
        "            fold_odd_patches(db, shape, first, last, moved)\n",
        "",
        PATCHES + "row_put_and_patched_in_one_pull_is_whole",
    ),
    Mutant(
        "the mirror runs the application's triggers",
        "destination/mirror_db.py",
        "db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)",
        "db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)",
        TRAPS + "rows_arrive_once_when_foreign_keys_cascade_and_triggers_write",
        DIFFERS + "|no such table|unsafe use|can't be replayed",
    ),
    Mutant(
        "sqlite_sequence is not carried",
        "destination/replay.py",
        "    if has_sequence(db, sequence, shapes):\n        return\n",
        "    return\n",
        TRAPS + "sequence_arrives_when_the_application_sets_it",
    ),
    Mutant(
        "user_version is not carried",
        "destination/replay.py",
        '    db.execute(f"PRAGMA main.user_version = {facts.user_version:d}")\n',
        "",
        TRAPS + "user_version_arrives_when_nothing_else_has_changed",
    ),
    Mutant(
        "a changed user_version gets no log row of its own",
        "source/install.py",
        '    if knows_header(db) or db.readonly("main"):\n        return\n',
        "    return\n",
        TRAPS + "point_keeps_its_user_version_when_only_that_changed_since",
        r"point=|header|assert " + "|" + DIFFERS,
    ),
    Mutant(
        "a point is believed although the schema had changed",
        "destination/archive.py",
        "if after < point.id <= through and not point.schema_changed",
        "if after < point.id <= through",
        TRAPS + "point_is_not_offered_when_the_log_could_not_tell_all_that_led_to_it",
        "assert ",
    ),
    Mutant(
        "a bridge leaves no hole",
        "destination/bridging.py",
        "            if self._has_gap:\n",
        "            if False:\n",
        AGAIN + "only_rows_that_changed_move_when_their_keys_are_remembered",
        "hole|isdisjoint|assert ",
    ),
    Mutant(
        "the old line is not kept",
        "destination/ladder.py",
        "            take_snapshot(self._store, self._catalog)\n\n    def _archive_old_schema",
        "            pass\n\n    def _archive_old_schema",
        STEPS + "old_line_stays_restorable_when_its_first_pull_died_before_the_snapshot",
        "IndexError|can't be restored",
    ),
    Mutant(
        "digests are blind for storage classes",
        "wire/digests.py",
        'value = f"t.{sql.name(column)}"\n',
        'value = f"CAST(t.{sql.name(column)} AS TEXT)"\n',
        VERIFY + "value_is_found_when_only_its_storage_class_or_a_bit_differs",
        r"== \{'t'|\{\} == ",
    ),
    Mutant(
        "digests stop at a NUL",
        "wire/digests.py",
        "sha3_agg({value})",
        "sha3_agg(iif(typeof({value}) = 'text', printf('%s', {value}), {value}))",
        VERIFY + "value_is_found_when_only_its_storage_class_or_a_bit_differs",
        r"== \{'t'|\{\} == ",
    ),
    Mutant(
        "an image's ids may have a hole",
        "destination/images.py",
        "else (low, high, rows) == (first, last, last - first + 1)",
        "else True",
        STEPS + "image_is_refused_when_its_ids_are_others_than_announced",
        "DID NOT RAISE",
    ),
    Mutant(
        "an image's checksum is not compared",
        "wire/session.py",
        "if digest.hexdigest() != image.sha256:",
        "if False:",
        "tests/test_wire.py::test_session_refuses_an_image_when_one_of_its_bytes_is_another_in_a_frame_that_is_whole",
        "DID NOT RAISE|AssertionError",
    ),
    Mutant(
        "batches need not follow on one another",
        "wire/session.py",
        "if batch.first != after + 1 or batch.last < batch.first:",
        "if False:",
        "tests/test_wire.py::test_session_refuses_batches_when_they_come_twice_or_out_of_order_or_not_at_all",
        "DID NOT RAISE|AssertionError",
    ),
    Mutant(
        "a frame's checksum is not compared",
        "wire/frames.py",
        "if zlib.crc32(payload, zlib.crc32(buffer[2:8])) != checksum:",
        "if False:",
        "tests/test_wire.py::test_decoder_never_gives_another_frame_when_a_byte_is_altered",
        "Falsifying example|AssertionError",
    ),
    Mutant(
        "install does not look for functions of the application",
        "source/inspect.py",
        "missing = what_is_missing(name, texts.get(name, ()))",
        "missing = {}",
        "tests/test_support.py::test_install_names_what_is_not_carried",
        "NOT CARRIED|non-zero exit status",
    ),
    Mutant(
        "what a REPLACE removed by an index that the mirror lacks is not logged",
        "source/capture.py",
        "if plan.logs_replaced:",
        "if False:",
        "tests/test_collations.py::test_rows_that_a_replace_removes_go_when_only_the_application_knows_that_they_collide",
        "AssertionError",
    ),
    Mutant(
        "foreign keys are not looked at",
        "source/makeable.py",
        "                    found.append((mismatch[1], mismatch[2]))\n",
        "                    pass\n",
        "tests/test_support.py::test_install_warns_when_a_foreign_key_refers_to_no_key",
        "AssertionError",
    ),
    Mutant(
        "a row of sqlite_sequence needs no name",
        "source/log.py",
        " AND typeof(name)='text'",
        "",
        TRAPS + "sequence_arrives_when_a_row_of_it_has_no_name",
        "understand",
    ),
    Mutant(
        "segments are joined across a hole",
        "destination/compaction.py",
        "(each.line, each.first, _class(each)) != (run[-1].line, run[-1].last + 1, _class(run[-1]))",
        "(each.line, _class(each)) != (run[-1].line, _class(run[-1]))",
        PAST + "every_answer_about_the_past_agrees_when_anything_happens",
        "a batch holds log rows",
    ),
    Mutant(
        "a script does not take out the rows that moved",
        "destination/script.py",
        "rows_of(db, table, (REMOVED, MOVED))",
        "rows_of(db, table, (REMOVED,))",
        PAST + "every_answer_about_the_past_agrees_when_anything_happens",
        "UNIQUE constraint failed",
    ),
    Mutant(
        "history forgets what a PATCH left as it was",
        "destination/history.py",
        "self.row = {**self.row, **event.values}",
        "self.row = event.values",
        "tests/test_history.py::test_history_agrees_with_the_source_when_anything_happens",
        "right.keys",
    ),
    Mutant(
        "history does not see that a row was deleted",
        "destination/history.py",
        "            if event.op == Op.DELETE:\n                self.row = None\n",
        "            if event.op == Op.DELETE:\n                pass\n",
        PAST + "every_answer_about_the_past_agrees_when_anything_happens",
        "found.row is None",
    ),
    Mutant(
        "a key is compared as its columns are",
        "destination/net.py",
        "    if not shape.without_rowid:\n        return [prefix + sql.name(",
        "    if True:\n        return [prefix + sql.name(",
        "tests/test_key_collations.py::"
        "test_mirror_and_restores_equal_source_when_a_key_has_another_collation_than_its_columns",
        DIFFERS + "|UNIQUE constraint failed",
    ),
    Mutant(
        "a key has moved when its columns say so",
        "source/capture.py",
        'f"old.{term} IS NOT new.{sql.name(column)}"',
        'f"old.{sql.name(column)} IS NOT new.{sql.name(column)}"',
        "tests/test_key_collations.py::"
        "test_mirror_and_restores_equal_source_when_a_key_has_another_collation_than_its_columns",
    ),
)
