"""The tests can fail: the code is broken on purpose, one place at a time, and the tests named beside it must turn red.

Each mutation is (file, text that occurs once in it, what it becomes, tests). A run with nothing changed must be green.
"""

import compileall
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stepstream
from stepstream.kernel.executor import native

SOURCE = Path(stepstream.__file__).parent
ROOT = Path(__file__).parents[1]

# an editable install is found before PYTHONPATH
EDITABLE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'stepstream' not in type(f).__module__]"

GOLDEN = "tests/ops/test_golden.py"
CONTRACT = "tests/ops/test_contract.py"
STREAM = "tests/live/test_stream.py"
ENGINE = "tests/live/test_engine.py"
KEPT = "tests/live/test_engine_store.py"
FAULTS = "tests/live/test_engine_faults.py"
MEANWHILE = f"{KEPT}::test_what_happens_while_a_snapshot_writes_is_not_undone"
BOOKMARK = "tests/live/test_engine_durability.py::test_an_empty_bookmark_replaces_another"
SNAPSHOT = "tests/live/test_snapshot.py"
SLIDING = "tests/live/test_sliding.py"
SAMPLE = "tests/live/test_sample.py"
GRAPH = "tests/graph/test_graph.py"
VERIFY = "tests/test_verify.py"
ARRAYS = "tests/test_arrays.py"
KERNEL = "tests/kernel/test_kernel.py"
REFERENCE = "tests/test_reference.py"
RUN = "tests/cli/test_run.py"
RESUME = "tests/cli/test_resume.py"
ROWS = "tests/cli/test_rows.py"
FILES = "tests/formats/test_keras_files.py"
BUNDLE = "tests/formats/test_bundle.py"
DAMAGE = "tests/formats/test_bundle_damage.py"
VECTORS = "tests/formats/test_bundle_vectors.py"
BATCHES = "tests/learn/test_batches.py"
CALIBRATED = "tests/ops/test_calibrated.py"
CALIBRATION = "tests/learn/test_calibration.py"
CLASS_ORDER = "tests/learn/test_class_order.py"
DATA = "tests/learn/test_data.py"
DRIFT = "tests/live/test_engine_drift.py"
EVALUATION = "tests/learn/test_evaluation.py"
GUARANTEE = "tests/learn/test_rule_families.py"
METRICS = "tests/learn/test_metrics.py"
RULES = "tests/learn/test_decision_rules.py"
TEMPERATURE = "tests/learn/test_temperature.py"
TRIGGERED = "tests/ops/test_triggered.py"
TRUTH = "tests/live/test_engine_truth.py"
CONFORMANCE = "tests/stores/test_conformance.py"
SQLITE = "tests/stores/test_sqlite_faults.py"
REDIS = "tests/stores/test_redis_faults.py"
STORES = "tests/stores/test_store_properties.py"

# in files whose other tests take long
BITS = f"{SLIDING}::test_both_ways_have_the_bits_of_the_whole_pass"
ACTIVATIONS = f"{CONTRACT}::test_every_activation_inside_every_recurrent_layer"

SPLIT = "i, f, g, o = np.split"
STEP = "self._state = self._next(self._state, x, time, mask)"

MUTATIONS = {
    # the cells
    "LSTM: input and forget gates swapped": ("ops/recurrent.py", SPLIT, "f, i, g, o = np.split", GOLDEN),
    "LSTM: forget and output gates swapped": ("ops/recurrent.py", SPLIT, "i, o, g, f = np.split", GOLDEN),
    "LSTM: candidate and output swapped, as ONNX has them": ("ops/recurrent.py", SPLIT, "i, f, o, g = np.split", GOLDEN),
    "LSTM: h and c exchanged": ("ops/recurrent.py", "return activate(gate, o) * activate(act, c), c", "return c, activate(gate, o) * activate(act, c)", GOLDEN),
    "GRU: update and reset gates swapped": ("ops/recurrent.py", "candidate = activate(act, xw[:, 2 * u :] + r * hu[:, 2 * u :])", "z, r = r, z; candidate = activate(act, xw[:, 2 * u :] + r * hu[:, 2 * u :])", GOLDEN),
    "GRU: update gate the other way round, as PyTorch has it not": ("ops/recurrent.py", "z * h + (1 - z) * candidate", "(1 - z) * h + z * candidate", GOLDEN),
    "GRU: reset after the product where it belongs before": ("ops/recurrent.py", "project(r * h, w[\"recurrent\"][:, 2 * u :])", "r * project(h, w[\"recurrent\"][:, 2 * u :])", GOLDEN),
    "GRU: recurrent bias forgotten": ("ops/recurrent.py", "hu + w[\"bias\"][1] if \"bias\" in w else hu", "hu", GOLDEN),
    "mask ignored": ("ops/recurrent.py", "if mask is None:\n            return new[0], new", "if True:\n            return new[0], new", f"{CONTRACT}::test_masked_samples_leave_the_state_alone"),
    "zero output for masked samples forgotten": ("ops/recurrent.py", 'return np.where(keep, y, 0).astype(xw.dtype) if node.params["zero_output_for_mask"] else y, new', "return y, new", f"{CONTRACT}::test_masked_samples_give_zeros_where_the_layer_says_so"),
    "our own float32 error as the measure": ("testing.py", "noise = difference(outputs(model, stepped(double, x * (1 + 1e-6 * nudges), mask)), exact)", "noise = difference(outputs(model, stepped(windowing.on(model.executor)[1], x, mask)), exact)", f"{VERIFY}::test_a_state_that_fades_is_not_excused_by_its_own_error"),
    # the rest of the arithmetic
    "a matrix product for the whole batch": ("ops/dense.py", ".reshape(-1, 1, x.shape[-1])", ".reshape(-1, x.shape[-1])", CONTRACT),
    "the hard sigmoid of Keras 2 in Keras 3's place": ("ops/activation.py", "np.clip(x / 6 + 0.5, 0, 1)", "np.clip(0.2 * x + 0.5, 0, 1)", GOLDEN),
    "the hard sigmoid of Keras 3 in Keras 2's place": ("ops/activation.py", "np.clip(0.2 * x + 0.5, 0, 1)", "np.clip(x / 6 + 0.5, 0, 1)", GOLDEN),
    "a file by Keras 2 read with Keras 3's hard sigmoid": ("formats/keras_activation.py", 'if name == "hard_sigmoid" and layer.writer.keras < 3:', "if False:", FILES),
    "LeakyReLU's default slope": ("formats/keras_activation.py", '("negative_slope", "alpha", 0.3)', '("negative_slope", "alpha", 0.2)', FILES),
    "epsilon forgotten": ("ops/normalise.py", '+ w["mean"].dtype.type(node.params["epsilon"])', "", GOLDEN),
    "scale the wrong way round": ("ops/normalise.py", '(x - w["mean"]) / w["std"]', 'x * w["std"] + w["mean"]', STREAM),
    "a node dropped that does something": ("graph/passes.py", 'node.params["activation"]["name"] == "linear"', 'node.params["activation"]["name"] != "glu"', GRAPH),
    "the fingerprint without weights": ("graph/ir.py", '"weights": {k: [list(w.shape), _digest(w)] for', '"weights": {k: list(w.shape) for', GRAPH),
    "a value of the end fed back": ("ops/recurrent.py", "if x.role is not TimeRole.SEQUENCE or", "if", GRAPH),
    # streams
    "tumbling one sample late": ("live/windowing.py", "return age >= self.n\n\n    def complete(self, age: int, training_length: int | None) -> bool:\n        return age ==", "return age > self.n\n\n    def complete(self, age: int, training_length: int | None) -> bool:\n        return age ==", STREAM),
    "tumbling complete one sample early": ("live/windowing.py", "return age == self.n", "return age == self.n - 1", STREAM),
    "complete one sample late": ("live/windowing.py", "age >= training_length", "age > training_length", STREAM),
    "beyond the training length one sample early": ("live/stream.py", "age > length", "age >= length", STREAM),
    "session restarts at the gap itself": ("live/windowing.py", "time - last_time > self.gap", "time - last_time >= self.gap", STREAM),
    "a restart that keeps the state": ("live/stream.py", "row=self._nothing().row, age=0", "age=0", STREAM),
    "peek moves": ("live/stream.py", "return self._next(self._state, x, time, mask)[0]", f"y, {STEP}; return y", STREAM),
    "a fork that starts anew": ("live/stream.py", "twin._state = self._state\n", "pass\n", STREAM),
    "NaN accepted": ("live/sample.py", "if not np.isfinite(row).all():", "if False:", STREAM),
    "time may run backwards": ("live/stream.py", "time < state.time", "False", STREAM),
    "a wrong length accepted": ("live/sample.py", "if shape not in shapes and not any(", "if False and not any(", STREAM),
    "a repeated number counts again": ("live/batch.py", "old = numbered & (seq <= last)", "old = numbered & (seq < last)", ENGINE),
    "a bulk call that fails is half applied": ("live/batch.py", "table.state[touched], table.meta[touched] = before", "pass", ENGINE),
    "a new stream stays although its only sample was bad": ("live/residents.py", "self.table.remove(self._created[(meta[\"samples\"] == 0) & ((meta[\"flags\"] & ENDED) == 0)])", "pass", ENGINE),
    "a clock that jumps back ends a session": ("live/batch.py", "np.fmax(now, meta[\"time\"])", "now", ENGINE),
    "an overflow where a window begins loses the old one": ("live/batch.py", "table.state[again[undone]] = old_rows[undone]", "pass", ENGINE),
    "the journal is replayed upon what includes it": ("live/recovery.py", "(rows >= 0) & (included[rows] < number)", "rows >= 0", KEPT),
    "a deleted stream comes back from the store": ("live/vault.py", "if d not in self._gone", "if True", KEPT),
    "what was written is thought to be new": ("live/vault.py", "(flags[rows] & CHANGED) != 0", "(flags[rows] & CHANGED) == 0", KEPT),
    "the warmest streams leave": ("live/residents.py", "np.argpartition(table.meta[\"used\"][free], count - 1)", "np.argpartition(-table.meta[\"used\"][free], count - 1)", KEPT),
    "after a failed commit all goes on": ("live/vault.py", "self.broken = self.broken or f\"{error}\" or type(error).__name__", "pass", KEPT),
    "an interrupted call goes on": ("live/engine.py", "if self._streams.changing and not isinstance(e, StepstreamError):", "if False:", f"{FAULTS}::test_interrupted_anywhere"),
    "an empty bookmark is none": ("live/vault.py", "if bookmark is not None:  # one", "if bookmark:  # one", BOOKMARK),
    "a damaged key keeps everybody out": ("live/vault.py", "with suppress(StoreError):", "if True:", f"{FAULTS}::test_a_flipped_byte_in_a_key_keeps_nobody_out"),
    "a snapshot leaves out the first streams": ("live/vault.py", "for first in range(0, last, CHUNK):", "for first in range(CHUNK, last, CHUNK):", KEPT),
    "a snapshot trims what came meanwhile": ("live/vault.py", "self.store.trim(number)", "self.store.trim(self.number)", KEPT),
    "what changes while it is written is taken for written": ("live/vault.py", "rows[(flags[rows] & COPIED) != 0]", "rows", MEANWHILE),
    "an end while its record is written is forgotten": ("live/vault.py", "key in self._gone and self._gone[key] <= copies.number", "key in self._gone", MEANWHILE),
    "an end outlives the stream that began after it": ("live/vault.py", "for key, _ in copies.records if self._gone else ():", "for key, _ in ():", MEANWHILE),
    "a snapshot keeps everybody waiting": ("live/vault.py", "            if copies.records:\n                self._write(copies)", "                self._write(copies)\n            if copies.records:", f"{KEPT}::test_samples_are_answered_while_a_snapshot_waits_for_the_disk"),
    "a deletion is not replayed": ("live/recovery.py", "streams.do(operation, table.keys.find(operation.keys))", "pass", f"{FAULTS}::test_what_is_damaged_can_be_begun_anew"),
    "another arithmetic replays": ("live/recovery.py", "if other and replays and not inexactly:", "if False:", KEPT),
    "a callback that fails silences the others": ("live/engine.py", "told.callback(callback)", "callback()", f"{FAULTS}::test_a_callback_that_fails_takes_nothing_from_the_others"),
    "two threads at once": ("live/stream.py", "if not self._lock.acquire(blocking=False):", "if not self._lock.acquire(blocking=False) and False:", STREAM),
    "features by position instead of by name": ("live/sample.py", "[x[name] for name in names]", "list(x.values())", STREAM),
    # states
    "h and c exchanged in the file": ("live/snapshot.py", 'f"states_{nodes[node].layer_index}_{j}"', 'f"states_{nodes[node].layer_index}_{1 - j}"', SNAPSHOT),
    "layers counted from one": ("live/snapshot.py", 'f"states_{nodes[node].layer_index}_{j}"', 'f"states_{nodes[node].layer_index + 1}_{j}"', SNAPSHOT),
    "age not saved": ("live/snapshot.py", 'group.attrs["age"] = -1 if state.age is None else state.age', 'group.attrs["age"] = 0', SNAPSHOT),
    "another model's state accepted": ("live/snapshot.py", "if theirs != ours:", 'if theirs != ours and key != "fingerprint":', SNAPSHOT),
    "another windowing's state accepted": ("live/snapshot.py", "if theirs != ours:", 'if theirs != ours and key != "windowing":', SNAPSHOT),
    "the old file overwritten in place": ("formats/files.py", 'with open(temporary, "xb") as f:', 'with open(target, "wb") as f:', SNAPSHOT),
    "a state's columns in another order": ("live/snapshot.py", "row[columns] = file.array(name).reshape(-1)", "row[columns] = file.array(name).reshape(-1)[::-1]", SNAPSHOT),
    "the recipe's layout for a ring": ("live/snapshot.py", "windowing.on(executor)[1] is executor", "True", f"{SLIDING}::test_a_file_of_one_stream_has_columns"),
    "the recipe's layout for a layer that is called twice": ("live/snapshot.py", "len(indices) == len(stateful)", "True", SNAPSHOT),
    "the recipe's layout for a layer inside another model": ("live/snapshot.py", "n.layer_index >= 0", "True", SNAPSHOT),
    "two nodes of a layer under one name": ("live/snapshot.py", "layer if count[layer] == 1 else node", "layer", SNAPSHOT),
    "any count accepted": ("live/snapshot.py", "if count != found:", "if False:", f"{SLIDING}::test_a_count_that_is_not_that_of_the_age_is_refused"),
    # sliding windows
    "recompute: one sample too many": ("live/sliding.py", "count - self.stride * -(-np.maximum(0, count - self.n)", "count - self.stride * -(-np.maximum(0, count - self.n - 1)", f"{SLIDING}::test_a_stride_sees_between_n_minus_s_plus_one_and_n"),
    "recompute: one sample too few": ("live/sliding.py", "count - self.stride * -(-np.maximum(0, count - self.n)", "count - self.stride * -(-np.maximum(0, count - self.n + 1)", SLIDING),
    "recompute: masks one sample late": ("live/sliding.py", "keep = masks[chosen, n - length :] > 0", "keep = np.roll(masks, 1, axis=1)[chosen, n - length :] > 0", SLIDING),
    "recompute: new samples of the wrong stream": ("live/sliding.py", "y[chosen] = part", "y[chosen] = part[::-1]", BITS),
    "states: one sample too many": ("live/sliding.py", "idle = (seen < 1) | (seen > self.n)", "idle = (seen < 1) | (seen > self.n + 1)", f"{SLIDING}::test_a_stride_sees_between_n_minus_s_plus_one_and_n"),
    "states: one sample too few": ("live/sliding.py", "idle = (seen < 1) | (seen > self.n)", "idle = (seen < 1) | (seen >= self.n)", SLIDING),
    "states: started one sample late": ("live/sliding.py", "rows[(idle | (seen == 1)).reshape(-1)]", "rows[(idle | (seen == 2)).reshape(-1)]", SLIDING),
    "states: a start that keeps the state": ("live/sliding.py", "rows[(idle | (seen == 1)).reshape(-1)]", "rows[idle.reshape(-1)]", SLIDING),
    "states: the newest answers": ("live/sliding.py", "oldest = np.where(idle, 0, seen).argmax(axis=1)", "oldest = np.where(idle, self.n + 1, seen).argmin(axis=1)", SLIDING),
    "states: those that have seen enough go on": ("live/sliding.py", "if idle.any():", "if False:", f"{SLIDING}::test_a_place_without_a_state_holds_nothing"),
    "a ring that wraps one sample late": ("live/sliding.py", "np.where(count == self.n + self.period, self.n, count)", "np.where(count == self.n + self.period + 1, self.n, count)", SLIDING),
    "sliding complete one sample early": ("live/windowing.py", "return age >= self.n\n\n    def effective", "return age >= self.n - 1\n\n    def effective", SLIDING),
    "sliding is beyond the training length by its age": ("live/windowing.py", "return self.n if age is None else min(age, self.n)", "return age", f"{SLIDING}::test_age_complete_and_beyond_the_training_length"),
    "states=k rounded down": ("live/windowing.py", 'stride = -(-n // whole("sliding", states, 1, n, "states"))', 'stride = n // whole("sliding", states, 1, n, "states")', f"{SLIDING}::test_as_objects_and_texts"),
    # samples by input, and models that flatten
    "an input without time that changes": ("live/stream.py", "if before != now:", "if False:", SAMPLE),
    "a flattened window that goes on": ("live/stream.py", "(self.windowing.effective(age + 1) or 0) > n", "False", SAMPLE),
    "a flattened window one sample short": ("live/stream.py", "(self.windowing.effective(age + 1) or 0) > n", "age + 1 >= n", SAMPLE),
    "a flattened window cut at another length": ("live/stream.py", "if windowing.n != n:", "if False:", SAMPLE),
    "a flattened window complete beyond its end": ("live/stream.py", "return self.windowing.effective(age) == self.model.window_length", "return (age or 0) >= self.model.window_length - 1", SAMPLE),
    "inputs in the order of the dict": ("live/sample.py", "row[columns] = value.reshape(-1)", "row[list(inputs.values())[list(x).index(name)]] = value.reshape(-1)", SAMPLE),
    # verification
    "any error tolerated": ("testing.py", "ok = bool((error <= allowed).all())", "ok = True", VERIFY),
    "the other side's error as the measure": ("testing.py", "10 * measure.noise)", "10 * difference(theirs, measure.exact))", VERIFY),
    "the wrong position named": ("testing.py", "position if positions is None else positions[position]", "position", VERIFY),
    "bits compared with a tolerance": ("testing.py", "float(d.max(initial=0)), where, 0, not differs.any())", "float(d.max(initial=0)), where, 0, True)", f"{VERIFY}::test_a_state_that_loses_bits_is_found"),
    "a stateful reference not reset": ("reference.py", "        for layer in self._stateful:\n            layer.reset_states()", "        pass", REFERENCE),
    "a stateful reference that forgets taken as a proof": ("reference.py", "if len(ends) > 1 and all(", "if False and all(", REFERENCE),
    # bundles
    "a damaged bundle taken": ("formats/bundle_file.py", "if data[SUM] != total.encode():", "if False:", DAMAGE),
    "check vectors not compared": ("vectors.py", "if error > TOLERANCE:", "if False:", VECTORS),
    "check vectors of another graph kept": ("model.py", "known.fingerprint == self.fingerprint", "True", VECTORS),
    "arrays that overlap": ("formats/bundle_file.py", 'if entry["data_offsets"] == [at, end] else None', "", DAMAGE),
    "another graph under a fingerprint": ("formats/bundle.py", 'if fingerprint != model["fingerprint"]:', "if False:", DAMAGE),
    "a second scale": ("model.py", "input_scale(reading.graph) is not None:", "False:", BUNDLE),
    "parameters of any type": ("ops/declared.py", "if not op.params[name].fits(value):", "if False:", DAMAGE),
    "weights that no node uses": ("formats/bundle_graph.py", "if unused := set(arrays) - used:", "if unused := set():", DAMAGE),
    # the command line
    "an input taken up one record too far": ("cli/job.py", "passing.left = n - 1", "passing.left = n", RESUME),
    "the output not cut back": ("cli/sink.py", "        if before.same_input:\n            return done", "", f"{RESUME}::test_answers_after_the_saved_state_are_cut_off_as_they_come_again"),
    "any output gone on with": ("cli/sink.py", 'if (digest(head), digest(tail)) != (', "if False and (", f"{RESUME}::test_an_output_that_is_not_the_one_before_is_refused"),
    "an answer that found no reader kept": ("cli/sink.py", "            self.failed = True\n            raise\n", "            self.failed = True\n", f"{RESUME}::test_a_reader_that_leaves_takes_no_state_with_it"),
    "the position of the batch before": ("cli/job.py", 'position.to_bookmark({"records": read, ', 'position.to_bookmark({"records": read - len(samples), ', RESUME),
    "another input's position kept until its first answer": ("cli/run.py", "                job.begin(give)\n", "", f"{RESUME}::test_the_output_is_on_the_disk_before_the_store_says_so"),
    "an input that was edited gone on with": ("cli/position.py", "        if not self.fits(saved):", "        if False:", f"{RESUME}::test_an_input_that_was_edited_where_it_was_read_is_refused"),
    "a bad record counted as consumed": ("cli/job.py", "                batch.place = self.source.consumed()\n", "                batch.place = self.source.size or 0\n", f"{RESUME}::test_a_bad_record_can_be_mended"),
    "a bad record's neighbours lost": ("cli/job.py", "self._step(samples[:half], batch, samples[half].number - 1, samples[half].place, give)", "pass", f"{RUN}::test_all_records_before_a_bad_one_are_answered"),
    "an answer that waits for the next record": ("cli/lines.py", "self.more = i < last", "self.more = i < len(lines) - 1", f"{RUN}::test_a_blank_line_holds_up_no_answer"),
    "a stream that ends late": ("live/batch.py", "table.clear(rows[over], ENDED)", "pass", ENGINE),
    "ends journalled behind all samples": ("live/residents.py", "turns = np.empty(len(rows), np.int64)\n    turns[by_row] = before - np.repeat(before[first], np.diff(first, append=len(rows)))", "turns = np.zeros(len(rows), np.int64)", "tests/live/test_engine_properties.py"),
    "lines in hand dropped at a signal": ("cli/run.py", "if stop.code is not None and again is not None:", "if stop.code is not None:", f"{RESUME}::test_a_signal_loses_no_line_in_hand"),
    "an unfinished last line consumed": ("cli/lines.py", 'if whole and not line.endswith(b"\\n")', "if False", f"{RESUME}::test_a_line_without_its_end_is_left_for_the_next_run"),
    "the end of a stream ignored": ("cli/job.py", "None if self.meaning.end is None else np.array([s.end", "None if True else np.array([s.end", f"{RUN}::test_end_resets_a_stream"),
    "every record its own stream": ("cli/job.py", "[s.key for s in samples],\n                x,", "[f'{s.key}{s.number}' for s in samples],\n                x,", RUN),
    "a bad record skipped unasked": ("cli/job.py", "if not self.skip:", "if False:", f"{RUN}::test_a_null_key_is_a_bad_record"),
    "what is no UTF-8 replaced": ("cli/lines.py", "content.decode()", 'content.decode("utf-8", "replace")', ROWS),
    "the kernel's gates exchanged": ("kernel/plan.py", "((gate, gate, act, gate))", "((gate, act, gate, gate))", ACTIVATIONS),
    "the kernel's sigmoids of x, not of half of it": ("kernel/plan.py", "[0.5, 0.5, 1, 0.5] if fused", "[1, 1, 1, 1] if fused", KERNEL),
    "the kernel deaf to masks": ("kernel/plan.py", 'p.emit("restore_masked",', 'p.emit("copy", p.room(1), p.room(1), 1) if True else p.emit("restore_masked",', KERNEL),
    "the kernel's reset gate before its bias": ("kernel/plan.py", "bias[1, 2 * units :])", "bias[0, 2 * units :])", KERNEL),
    "the kernel leaves out what a state needs": ("kernel/plan.py", "needed |= set(node.inputs)", "needed |= set(node.inputs[1:])", KERNEL),
    "the short way forgets to restart": ("live/stream.py", "cut = windowing.n if isinstance(windowing, Tumbling) else 0", "cut = 0", KERNEL),
    "masked values accepted": ("arrays.py", "if refused := _refused(values):", "if refused := False:", ARRAYS),
    # models made for streams: sequences as batches
    "a ramp of weights that does not rise": ("learn/batches.py", 'np.ones(length) if loss == "mean" else np.arange(1.0, length + 1)', 'np.ones(length)', f"{BATCHES}::test_weights_of_the_samples"),
    "a prefix that weighs less than a sequence": ("learn/batches.py", "out.w[i, :n], out.w[i, n:] = step_weights(n, recipe.loss), 0", "out.w[i, n:] = 0", f"{BATCHES}::test_prefixes_cut_sequences_anew_in_every_epoch"),
    "class weights that cancel out": ("learn/stepper.py", "ops.maximum(ops.sum(w), 1e-12)", "ops.maximum(ops.sum(w * c), 1e-12)", "tests/learn/test_training.py::test_class_weights_count_in_batches_of_one"),
    "random starts whose labels stay behind": ("learn/batches.py", "((out.x, rows.x), (out.y, rows.y), (out.c, rows.c)):\n            to[i, :n]", "((out.x, rows.x),):\n            to[i, :n]", f"{BATCHES}::test_random_starts_are_in_the_first_half"),
    "the last weights kept, not their mean": ("learn/stepper.py", "[share * a + (1 - share) * v", "[v", "tests/learn/test_training.py::test_the_mean_of_the_weights_is_kept_and_validated"),
    "a lane that takes a stream up where the one before ended": ("learn/lanes.py", "waiting.pop() if waiting else -1, 0, True", "waiting.pop() if waiting else -1, 0, False", f"{BATCHES}::test_lanes_play_every_stream_whole_and_in_order"),
    "states passed to all windows": ("learn/lanes.py", "rng.random(size) < share", "rng.random(size) >= 0", f"{BATCHES}::test_states_are_passed_to_a_share_of_the_windows"),
    "states of padding passed on": ("learn/lanes.py", "[f[:count] for f in finals]", "finals", f"{BATCHES}::test_states_are_passed_to_a_share_of_the_windows"),
    "a stream in both parts": ("learn/data.py", "inside = np.array([s in held for s in data.streams])", "inside = np.arange(len(data)) % 4 == 0", DATA),
    # what they are worth
    "one sigmoid unit as the first class": ("classes.py", "np.concatenate([1 - p, p], axis=1)", "np.concatenate([p, 1 - p], axis=1)", f"{TRUTH}::test_figures_of_classes_are_those_of_scikit_learn"),
    "the Brier score of one class of three": ("classes.py", "np.eye(p.shape[1])[y]) ** 2).sum(axis=1)", "np.eye(p.shape[1])[y]) ** 2)[:, 1]", METRICS),
    "equal scores ranked in their order": ("learn/metrics.py", "(np.cumsum(count) - (count - 1) / 2)[place]", "np.cumsum(count)[place]", f"{METRICS}::test_as_scikit_learn"),
    "gaps of calibration that cancel": ("learn/metrics.py", "float(np.abs(gaps).sum() / len(y))", "float(abs(gaps.sum()) / len(y))", f"{METRICS}::test_calibration_error"),
    "a standard error as if samples of a stream were independent": ("learn/metrics.py", "    if streams is not None:\n        off =", "    if False:\n        off =", f"{RULES}::test_small_figures"),
    "rows of ages that go on after a restart": ("learn/by_step.py", "place = np.arange(len(y)) % n", "place = np.arange(len(y))", f"{EVALUATION}::test_labels_per_sample_by_age"),
    "the rows of all samples up to a number": ("learn/by_step.py", "first = before if data.per_sample else s - 1", "first = before if data.per_sample else 0", f"{EVALUATION}::test_rows_are_what_counting_gives"),
    # calibrated by step
    "one temperature for all steps": ("learn/temperature.py", "s = np.exp(-(basis @ theta)[row])", "s = np.exp(-(basis @ theta)[0 * row])", f"{TEMPERATURE}::test_known_temperatures_are_found"),
    "temperatures without a prior": ("learn/temperature.py", "n, count = basis.shape\n", "n, count = basis.shape\n    prior = 1e-9 * prior\n", f"{TEMPERATURE}::test_a_handful_of_right_sequences_does_not_lead_to_certainty"),
    "a map that falls here and there": ("learn/isotonic.py", "while len(blocks) > 1 and blocks[-1][1] <= blocks[-2][1]:", "while False:", f"{TEMPERATURE}::test_where_more_probable_happened_less_often_the_map_is_their_mean"),
    "a map of two classes that moves one half": ("learn/isotonic.py", "if p.shape[1] > 2:", "if True:", f"{TEMPERATURE}::test_the_map_of_two_classes_leaves_one_half_where_it_is"),
    "a calibration that knows the sequences it is judged by": ("learn/calibration.py", "FITS[name](data.of(rest), n)", "FITS[name](data, n)", f"{CALIBRATION}::test_an_overconfident_model_is_cooled_to_the_truth"),
    "out of fold by models that have seen all": ("learn/unseen.py", "train(data.some(rest))", "train(data)", f"{CALIBRATION}::test_calibrating_by_models_that_have_not_seen_a_sequence"),
    "classes of the data that a model forgets": ("learn/answers.py", "data.classes if model.classes is None else model.classes", "model.classes", CLASS_ORDER),
    "answers out of fold in the order of the models": ("learn/unseen.py", "if len(columns) == z.shape[1]", "if False", CALIBRATION),
    "training data that are not known with their validation part": ("learn/unseen.py", "or _same(*_together(part, held, means), data)", "", f"{CALIBRATION}::test_the_file_that_a_training_held_a_part_of_out_is_recognised"),
    "folds that start from weights that have seen all": ("learn/completion.py", "core = anew(network)", "core = network", "tests/learn/test_completion.py::test_folds_begin_anew_whatever_a_given_network_has_learned"),
    "an interval as if windows of a stream were independent": ("learn/by_step.py", "alone = not data.per_sample and", "alone = not data.per_sample or", f"{EVALUATION}::test_many_sequences_of_few_streams_are_no_more_certain_than_the_streams"),
    "an order of classes found by chance": ("learn/remarks.py", "or _certainty(gain, data) < CERTAIN", "", CLASS_ORDER),
    "the scale of the sample before": ("ops/calibrate.py", "return np.clip(np.nan_to_num(count), 0, n - 1)", "return np.clip(np.nan_to_num(count) - 1, 0, n - 1)", f"{CALIBRATED}::test_each_position_has_its_scale_and_the_last_one_stays"),
    "mapped classes not divided by their sum": ("ops/calibrate.py", "mapped / total)", "mapped)", f"{CALIBRATED}::test_classes_go_each_by_itself_and_are_divided_by_their_sum"),
    # that decide
    "a first decision that does not stay": ("learn/decision_rules.py", "np.where(now >= 0, now, top) if latched else top", "top", RULES),
    "a streak over classes that change": ("learn/decision_rules.py", "np.where(same, streak, 0) + 1", "streak + 1", f"{RULES}::test_samples_in_a_row_have_to_speak_for_the_same_class"),
    "the trigger's first decision does not stay": ("ops/trigger.py", "now = np.where(decision > 0, decision, now)", "pass", TRIGGERED),
    "the trigger's streak over classes that change": ("ops/trigger.py", "np.where(name == last, streak + 1, 1)", "np.where(last > 0, streak + 1, 1)", TRIGGERED),
    "a guarantee for the mean of what was seen": ("learn/guarantee.py", "if p > delta:", "if lost.mean() > alpha:", f"{GUARANTEE}::test_the_guarantee_holds"),
    # what live answers were worth
    "an answer at an age judged at the next": ("live/ages.py", 'np.where(place > 0, _LADDER[place - 1], 0)', 'np.where(place > 0, _LADDER[np.minimum(place, len(_LADDER) - 1)], 0)', f"{TRUTH}::test_the_truth_about_a_sequence_judges_its_answers_at_a_ladder_of_ages_and_the_newest"),
    "a label that counts twice": ("live/truth.py", "    if sketches.judged(row, about, number):", "    if False:", f"{TRUTH}::test_answers_that_come_after_the_truth_are_not_judged_by_it_and_a_retry_changes_nothing"),
    "recent figures that forget nothing": ("live/quality.py", "sums[1] *= 1 - 1 / WINDOW", "pass", f"{TRUTH}::test_recent_figures_forget"),
    "answers that had seen something else compared": ("live/drift.py", "and windowing.n >= longest", "and windowing.n > 0", f"{DRIFT}::test_probabilities_are_compared_where_streams_are_cut_as_in_the_reference"),
    "chance taken for drift": ("live/drift.py", "psi(reference, counts) - (cells - 1)", "psi(reference, counts) - 0 * (cells - 1)", f"{DRIFT}::test_chance_alone_is_no_drift"),
    "drift that is never forgotten": ("live/drift.py", "self._counts[column] = self._counts[column] * keep + new", "self._counts[column] = self._counts[column] + new", f"{DRIFT}::test_what_has_moved_back_is_forgotten"),
    # stores
    "a commit that does not wait for the disk": ("stores/sqlite.py", 'to be written", full=self._full)', 'to be written", full=False)', SQLITE),
    "an older record replaces a newer": ("stores/sqlite.py", "WHERE excluded.number >= records.number\nOR", "WHERE 1 OR", SQLITE),
    "a record newer than its end is deleted": ("stores/sqlite.py", "(number <= ? OR", "(? OR 1 OR", CONFORMANCE),
    "a damaged record seems newer": ("stores/sqlite.py", "OR NOT whole(records.key, records.number, records.checksum, records.record)", "", f"{FAULTS}::test_damage_under_a_stream_in_memory_is_written_over"),
    "a broken store goes on": ("stores/sqlite.py", "            self._break(e if isinstance(e, StoreError)", "            (e if isinstance(e, StoreError)", SQLITE),
    "a gap in the journal": ("stores/sqlite_tables.py", "number != due or ", "", SQLITE),
    "trimmed entries come back": ("stores/sqlite.py", "                tables.write_trimmed(db, number)\n", "", SQLITE),
    "numbers begin anew": ("stores/sqlite.py", "self._last = max(self._trimmed, ", "self._last = max(0, ", CONFORMANCE),
    "a store for two engines": ("stores/sqlite_file.py", "fcntl.LOCK_EX", "fcntl.LOCK_SH", SQLITE),
    "a claim left beside what is no store": ("stores/sqlite.py", "                claim.withdraw()\n", "", SQLITE),
    "a log that grows for ever": ("stores/checkpoints.py", "self._stopped or self._behind >= LOG, self._interval", "self._stopped, self._interval", f"{SQLITE}::test_a_log_that_cannot_be_moved_breaks_the_store"),
    "a checksum of the record alone": ("stores/checksum.py", "crc32(record, crc32(head))", "crc32(record)", STORES),
    "an engine that comes too late": ("stores/redis.py", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then", "if false then", REDIS),
    "every error of the server is another engine": ("stores/redis.py", 'if said.startswith("FENCED"):', 'if "FENCED" in str(e):', REDIS),
    "a server that may have forgotten": ("stores/redis.py", "elif run_id != self._run_id:", "elif False:", REDIS),
    "a prefix that is a pattern": ("stores/redis.py", 'if c in b"*?[]\\\\^-" ', 'if c in b"" ', REDIS),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the package, compiled, and of its tests."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(SOURCE, folder / "src" / "stepstream")
    if native() is not None:
        shutil.copy(native().__file__, folder / "src" / "stepstream" / "kernel")
    compileall.compile_dir(folder / "src", quiet=1)
    (folder / "src" / "sitecustomize.py").write_text(EDITABLE)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("test_mutations.py"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def run_tests(folder):
    """Runs tests in the copy, in a process of their own: the exit status and the output."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name in ("STEPSTREAM_CASES", "PYTEST_ADDOPTS"):
        env.pop(name, None)
    arguments = ["-x", "-q", "--tb=native", "-m", "not slow"]
    if importlib.util.find_spec("hypothesis"):
        arguments += ["-p", "_hypothesis_pytestplugin", "--hypothesis-profile=noticing"]

    def run(isa, *selection):
        process.stdin.write(json.dumps([str(folder), isa, [*arguments, *selection]]) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline()), (folder / "out.txt").read_text()

    command = [sys.executable, ROOT / "tests" / "forking.py"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield run


@pytest.mark.slow
def test_unchanged_is_green(run_tests):
    status, out = run_tests("", GRAPH, ARRAYS, SAMPLE, GOLDEN)  # the others are green where they lie
    assert status == 0, out


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_tests_notice(name, folder, run_tests):
    file, old, new, tests = MUTATIONS[name]
    path = folder / "src" / "stepstream" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times: adapt the mutation"
    isa = "" if file.startswith("kernel/") or tests == KERNEL else "numpy"  # where Python computes
    # two texts of one length within a second are one to Python's cache
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        status, out = run_tests(isa, tests)
    finally:
        path.write_text(text, encoding="utf-8")
    assert status == 1, f"{tests} did not notice\n{out}"
