// SPDX-License-Identifier: Apache-2.0
'use strict';

// Cells, one at a time: run, wait for what they await, answer with one DONE.

const proto = require('./proto.js');
const errors = require('./errors.js');
const values = require('./values.js');
const evaluator = require('./evaluate.js');
const display = require('./display.js');

const { process } = globalThis; // user code may replace what it finds
const { listeners, prependListener, setUncaughtExceptionCaptureCallback } = process;
const { concat } = Buffer;
const { apply } = Reflect;
const { defineProperty, getOwnPropertyDescriptor } = Object;
const { then } = Promise.prototype;
const later = setImmediate;

const UNCAUGHT = 'uncaughtException';
// The name of a listener that Node's module `domain` adds; it takes no error.
const DOMAINS = 'domainUncaughtExceptionClear';
// Touches what a first cell touches. Its error and its output go nowhere.
const WARM_UP = `console.log([1, {a: 'x'}]); console.error(1); await 1;
	try { null.x } catch (error) { console.log(error) } ({warm: [1, 'up']})`;

function heapText(heapMib, sessionMib) {
	const share = sessionMib > 0
		? `the session has ${sessionMib} MiB, of which ${heapMib} MiB are for JavaScript objects`
		: `${heapMib} MiB are for JavaScript objects`;
	return `JavaScript heap out of memory: ${share}; the cell was ended, variables are kept`;
}

class Cells {
	constructor(native, streams, send) {
		this.native = native;
		this.streams = streams;
		this.send = send;
		this.current = null;
		this.exitCode = 0;
		this.onUncaught = (error) => this.uncaught(error);
		this.guardFatal();
		display.target.image = (image) => this.image(image);
	}

	run({ number, flags, code }) {
		const cell = { number, frame: null, failed: false, image: null };
		this.current = cell;
		this.streams.mute(number === 0);
		this.native.arm();
		if (flags & proto.RUN_ARGV) {
			this.fail(cell, errors.plain('NotSupported', 'commands are not run by this language'));
			return;
		}
		const source = number === 0 ? WARM_UP : code;
		try {
			this.follow(cell, evaluator.evaluate(this.native, source, number), source);
		} catch (error) {
			this.fail(cell, errors.describe(error));
		}
	}

	// The value of the evaluation, in the object it comes in. (A promise may come to a promise where
	// user code has broken them.)
	follow(cell, promise, source) {
		apply(then, promise, [
			(result) => (values.isPromise(result) ? this.follow(cell, result, source)
				: this.resolve(cell, result[evaluator.VALUE])),
			(error) => this.reject(cell, error, source),
		]);
	}

	// Called again with what a promise comes to.
	resolve(cell, value) {
		if (cell !== this.current) {
			return;
		}
		try {
			if (values.isPromise(value)) {
				apply(then, value, [
					(settled) => this.resolve(cell, settled),
					(error) => this.reject(cell, error),
				]);
				return;
			}
			this.succeed(cell, values.render(value));
		} catch (error) {
			this.fail(cell, errors.describe(error));
		}
	}

	reject(cell, error, source = '') {
		if (cell === this.current) {
			const place = evaluator.place(source, cell.number, error);
			this.fail(cell, errors.describe(error, place));
		}
	}

	succeed(cell, value) {
		if (value.image) {
			this.image(value);
		}
		this.settle(cell, () => proto.done(cell.image ?? value));
	}

	// The first error is the cell's; those that come before it has ended are messages.
	fail(cell, error) {
		if (cell.failed) {
			this.complain(error);
			return;
		}
		this.settle(cell, () => proto.failed(proto.ERROR, error), true);
	}

	// Not at once: a promise that the cell rejected and left alone is reported before that.
	settle(cell, frame, failed = false) {
		const first = cell.frame === null;
		if (!cell.failed) {
			cell.frame = frame;
			cell.failed = failed;
		}
		if (first) {
			later(() => this.finish(cell));
		}
	}

	finish(cell) {
		if (cell !== this.current) {
			return;
		}
		this.native.disarm();
		this.current = null;
		this.streams.restore();
		this.streams.mute(false);
		this.send(cell.number === 0 ? proto.done(values.NONE) : cell.frame());
	}

	/** The native part has terminated running code, or an interrupt found none running. */
	wake(interrupted, heapMib, sessionMib) {
		const cell = this.current;
		if (cell === null) {
			return;
		}
		if (interrupted && heapMib > 0) {
			const error = errors.plain('RangeError', heapText(heapMib, sessionMib));
			cell.frame = () => proto.failed(proto.ERROR, error);
		} else if (interrupted) {
			const error = errors.plain('Interrupted', 'the cell was interrupted');
			cell.frame = () => proto.failed(proto.INTERRUPTED, error);
		} else if (this.exitCode === 0) {
			cell.frame = () => proto.done(cell.image ?? values.NONE);
		} else {
			const error = errors.plain('ProcessExit', `process.exit(${this.exitCode})`);
			cell.frame = () => proto.failed(proto.ERROR, error);
		}
		cell.failed = true; // nothing else comes in its place
		// Microtasks come first, so that what the cell had begun there ends with it.
		later(() => this.finish(cell));
	}

	/** process.exit(): ends the cell, or the callback it is called from; never returns. */
	exit(code) {
		this.exitCode = (code ?? process.exitCode ?? 0) & 0xff;
		process.exitCode = undefined;
		this.native.stop();
		for (;;);
	}

	image(value) {
		const cell = this.current;
		if (cell === null) {
			return false;
		}
		this.send(proto.display(value));
		cell.image = value;
		return true;
	}

	// What nobody caught: the running cell's error, else a message. A handler of the user's own
	// comes first.
	uncaught(error) {
		const found = apply(listeners, process, [UNCAUGHT]);
		for (let i = 0; i < found.length; i++) {
			if (found[i] !== this.onUncaught && found[i].name !== DOMAINS) {
				return;
			}
		}
		this.report(error);
	}

	report(error) {
		const described = errors.describe(error);
		if (this.current !== null) {
			this.fail(this.current, described);
		} else {
			this.complain(described);
		}
	}

	complain(described) {
		const again = proto.bytes('Uncaught ');
		const prefixed = described.traceback.subarray(0, again.length).equals(again);
		this.native.write(2, prefixed ? described.traceback
			: concat([again, described.traceback]));
	}

	// Node calls this for every error that nobody caught, and ends the process if no listener takes it
	// or if one throws. Here such an error costs no state, whatever user code did to the listeners.
	guardFatal() {
		const fatal = process._fatalException;
		const guarded = (error, fromPromise) => {
			try {
				this.keepListening();
				if (apply(fatal, process, [error, fromPromise])) {
					return true;
				}
				this.report(error);
			} catch (thrown) {
				this.report(error);
				this.report(thrown);
			}
			this.withoutListeners(() => apply(fatal, process, [error, fromPromise]));
			return true;
		};
		this.keepListening();
		if (typeof fatal === 'function') {
			defineProperty(process, '_fatalException', { value: guarded, writable: false });
		}
	}

	// What Node does around an error, such as putting asynchronous contexts in order.
	withoutListeners(step) {
		const emit = getOwnPropertyDescriptor(process, 'emit');
		const { exitCode } = process;
		defineProperty(process, 'emit', { value: () => true, configurable: true, writable: true });
		apply(setUncaughtExceptionCaptureCallback, process, [null]);
		try {
			step();
		} finally {
			if (emit === undefined) {
				delete process.emit;
			} else {
				defineProperty(process, 'emit', emit);
			}
			process._exiting = false;
			process.exitCode = exitCode;
		}
	}

	keepListening() {
		const found = apply(listeners, process, [UNCAUGHT]);
		for (let i = 0; i < found.length; i++) {
			if (found[i] === this.onUncaught) {
				return;
			}
		}
		apply(prependListener, process, [UNCAUGHT, this.onUncaught]);
	}
}

module.exports = { Cells };
