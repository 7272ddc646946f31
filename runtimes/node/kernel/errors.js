// SPDX-License-Identifier: Apache-2.0
'use strict';

// What user code throws, as name, text and a bounded traceback without the driver's frames.

const { inspect, types } = require('util');
const { bounded } = require('./proto.js');
const { inspectOptions } = require('./values.js');

const NAME_MAX = 1024;
const TEXT_MAX = 4 * 1024;
const TRACEBACK_MAX = 16 * 1024;
// Bounds the work before the text is cut, not the text.
const FORMAT_MAX = 1024 * 1024;

const { isNativeError } = types;
const UserError = Error;
const OPTIONS = { ...inspectOptions, depth: 3 };
const CELL_FRAME = /^\s+at .*\bcell-\d+:\d+:\d+/;
const OWN_FRAME = new RegExp(
	`^\\s+at .*(${__dirname.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}/|node:inspector:)`);
const NODE_FRAME = /^\s+at .*[( ]node:internal\//;
const OPENING = / \{$/;
const FRAME = /^\s+at /;
const CELL_NAME = /\bcell-(\d+:\d+:\d+)/g;
const { exec } = RegExp.prototype;
const { replace, slice, split } = String.prototype;
const join = Array.prototype.join;
const apply = Reflect.apply;

function matches(pattern, line) {
	return apply(exec, pattern, [line]) !== null;
}

// Below the last frame of a cell there is only what the driver and Node did to run it.
function withoutOwnFrames(lines, from, to) {
	let end = to;
	for (let i = from; i < to; i++) {
		if (matches(CELL_FRAME, lines[i])) {
			end = i + 1;
		}
	}
	const kept = [];
	const userFrames = end < to || matches(CELL_FRAME, lines[to - 1]);
	for (let i = from; i < to; i++) {
		const own = matches(OWN_FRAME, lines[i]) ||
			((i >= end || !userFrames) && matches(NODE_FRAME, lines[i]));
		if (!own) {
			kept[kept.length] = apply(replace, lines[i], [CELL_NAME, 'cell $1']);
		}
	}
	return kept;
}

/** A V8 stack, or what inspect() makes of an error, with the frames that are the user's. */
function clean(stack) {
	const lines = apply(split, apply(slice, stack, [0, FORMAT_MAX]), ['\n']);
	const out = [];
	for (let i = 0; i < lines.length;) {
		let end = i;
		while (end < lines.length && matches(FRAME, lines[end])) {
			end++;
		}
		if (end === i) {
			out[out.length] = lines[i++];
			continue;
		}
		const kept = withoutOwnFrames(lines, i, end);
		for (let k = 0; k < kept.length; k++) {
			out[out.length] = kept[k];
		}
		// The error's other properties follow behind the last line that is left.
		if (out.length > 0 && matches(OPENING, lines[end - 1]) &&
			!matches(OPENING, out[out.length - 1])) {
			out[out.length - 1] += ' {';
		}
		i = end;
	}
	return apply(join, out, ['\n']);
}

function isError(value) {
	return isNativeError(value) || value instanceof UserError;
}

function property(value, name, fallback) {
	try {
		const found = value[name];
		return typeof found === 'string' ? found : fallback;
	} catch {
		return fallback;
	}
}

function described(value, place) {
	if (!isError(value)) {
		const shown = inspect(value, OPTIONS);
		return { name: 'Uncaught', text: shown, traceback: `Uncaught ${shown}\n` };
	}
	const name = property(value, 'name', 'Error');
	const text = property(value, 'message', '');
	const stack = property(value, 'stack', '');
	const shown = inspect(value, OPTIONS);
	// inspect() puts a stack without frames into brackets.
	const traceback = shown === `[${stack}]` ? stack : clean(shown);
	return { name, text, traceback: `${place}${traceback}\n` };
}

/**
 * { name, text, traceback } as bounded UTF-8; place is put before the traceback. Calls user code; what that throws is said in the
 * traceback, and an error is described all the same.
 */
function describe(value, place = '') {
	let parts;
	try {
		parts = described(value, place);
	} catch {
		const name = isNativeError(value) ? property(value, 'name', 'Error') : 'Uncaught';
		const text = isNativeError(value) ? property(value, 'message', '') : '';
		parts = { name, text, traceback: `${name}: <cannot be shown: showing it failed>\n` };
	}
	return {
		name: bounded(parts.name, NAME_MAX),
		text: bounded(parts.text, TEXT_MAX),
		traceback: bounded(parts.traceback, TRACEBACK_MAX),
	};
}

/** An error of the driver's own making. */
function plain(name, text) {
	return {
		name: bounded(name, NAME_MAX),
		text: bounded(text, TEXT_MAX),
		traceback: bounded(text === '' ? `${name}\n` : `${name}: ${text}\n`, TRACEBACK_MAX),
	};
}

module.exports = { describe, plain };
