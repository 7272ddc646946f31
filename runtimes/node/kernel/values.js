// SPDX-License-Identifier: Apache-2.0
'use strict';

// How the value of a cell's last expression travels: the kinds of kernel_proto.h. Integers that fit
// 64 bits and other finite numbers are numbers, booleans are booleans, a string is itself, an image
// is an image; all else is the text that console.log would print.

const { inspect, types } = require('util');
const { VALUE, VALUE_MAX, EMPTY, bytes, whole } = require('./proto.js');
const images = require('./images.js');

const { concat } = Buffer;
const { isFinite, isInteger } = Number;
const toInteger = BigInt;
const toText = String;
const asIntN = BigInt.asIntN;

const TEXT_MAX = 1024 * 1024;
const CUT = bytes('\n[... cut at 1 MiB ...]');
const INSPECT = {
	depth: 4, maxArrayLength: 100, maxStringLength: 10000, breakLength: 80, compact: 3,
	colors: false, customInspect: true, showProxy: false, showHidden: false, getters: false,
	sorted: false, numericSeparator: false,
};

const NONE = { kind: VALUE.NONE, bytes: EMPTY };
const NULL = { kind: VALUE.NULL, bytes: EMPTY };
const TRUE = { kind: VALUE.BOOL, bytes: bytes('1') };
const FALSE = { kind: VALUE.BOOL, bytes: bytes('0') };

/** A text value, cut with a mark where it is too long. */
function text(value) {
	const data = bytes(value.length > TEXT_MAX ? value.slice(0, TEXT_MAX) : value);
	if (value.length <= TEXT_MAX && data.length <= TEXT_MAX) {
		return { kind: VALUE.TEXT, bytes: data };
	}
	const head = whole(data.subarray(0, TEXT_MAX - CUT.length), false);
	return { kind: VALUE.TEXT, bytes: concat([head, CUT]) };
}

function number(value) {
	if (value === 0 && 1 / value < 0) {
		return { kind: VALUE.FLOAT, bytes: bytes('-0.0') };
	}
	if (isInteger(value)) {
		const integer = toInteger(value);
		if (asIntN(64, integer) === integer) {
			return { kind: VALUE.INT, bytes: bytes(toText(integer)) };
		}
	}
	return { kind: isFinite(value) ? VALUE.FLOAT : VALUE.TEXT, bytes: bytes(toText(value)) };
}

function string(value) {
	const data = value.length <= VALUE_MAX ? bytes(value) : null;
	if (data === null || data.length > VALUE_MAX) {
		return text(value);
	}
	return { kind: VALUE.STR, bytes: data };
}

/** As console.log shows it. Calls user code: it may throw, and need not return. */
function show(value) {
	return typeof value === 'string' ? value : inspect(value, INSPECT);
}

/** { kind, bytes } of a value. Calls user code. */
function render(value) {
	switch (typeof value) {
	case 'undefined':
		return NONE;
	case 'boolean':
		return value ? TRUE : FALSE;
	case 'number':
		return number(value);
	case 'string':
		return string(value);
	case 'object':
		if (value === null) {
			return NULL;
		}
		return images.of(value) ?? text(show(value));
	default:
		return text(show(value));
	}
}

module.exports = { NONE, render, show, inspectOptions: INSPECT, isPromise: types.isPromise };
