// SPDX-License-Identifier: Apache-2.0
'use strict';

// From the text of a cell to a promise of its value.

const vm = require('vm');
const { rewrite } = require('./source.js');

const { Script } = vm;
const { apply } = Reflect;
const { exec } = RegExp.prototype;
const OwnPromise = Promise;
const { resolve } = Promise;
const { then } = Promise.prototype;
const ParseError = SyntaxError;

const VALUE = '.repl_result';
// For parsing only: what a cell may say, an async function may.
const IN_FUNCTION = 'async () => {';
// What Node puts before the stack of an error in parsing: file, line, the line, what is wrong in it.
const PLACE = /^cell:(\d+)\n(.*)\n( *)(\^+)\n/;

// `{a: 1}` is meant as an object, as consoles take it, if it is one.
function asObject(source) {
	if (!/^\s*\{/.test(source) || /;\s*$/.test(source)) {
		return source;
	}
	try {
		const object = `(${source.trimEnd()}\n)`;
		new Script(`async () => ${object}`);
		return object;
	} catch {
		return source;
	}
}

// What user code has done to strings and regular expressions must not end the session.
function prepared(source) {
	try {
		return asObject(rewrite(source));
	} catch {
		return source;
	}
}

/**
 * A promise of what native.evaluate() comes to. It is called by V8 and not from here, so that stacks
 * of user code end where user code began.
 */
function evaluate(native, source, number) {
	const text = `${prepared(source)}\n//# sourceURL=cell-${number}`;
	return apply(then, apply(resolve, OwnPromise, [text]), [native.evaluate]);
}

/** Where a source that cannot be parsed goes wrong, as Node prints it; '' if that is not known. */
function place(source, number, error) {
	if (!(error instanceof ParseError)) {
		return '';
	}
	try {
		new Script(`${IN_FUNCTION}${source}\n}`, { filename: 'cell' });
	} catch (again) {
		const found = apply(exec, PLACE, [`${again.stack}`]);
		if (found === null || again.message !== error.message) {
			return '';
		}
		const shift = found[1] === '1' ? IN_FUNCTION.length : 0;
		const line = found[2].slice(shift);
		return `cell ${number}:${found[1]}\n${line}\n${found[3].slice(shift)}${found[4]}\n\n`;
	}
	return '';
}

module.exports = { evaluate, place, VALUE };
