// SPDX-License-Identifier: Apache-2.0
'use strict';

// Running source as the console of Chrome's developer tools does, by V8's own inspector: names live
// on in the global scope, const and class may be declared again, await works at the top level.

const { Session } = require('inspector');
const vm = require('vm');
const { rewrite } = require('./source.js');

const GROUP = 'cell';
const POST = Session.prototype.post;
const { Script } = vm;
const apply = Reflect.apply;
const toNumber = Number;
const toBigInt = BigInt;

const SYNTAX_ERROR = 'SyntaxError';
const SPECIAL = { 'NaN': NaN, 'Infinity': Infinity, '-Infinity': -Infinity, '-0': -0 };

const session = new Session();
// Where functions called by the inspector put an object for us; reached through its id.
const holder = { __proto__: null, value: undefined };
let holderId = null;

function post(method, params, callback) {
	apply(POST, session, [method, params, callback]);
}

function connect() {
	const name = '__holder';
	session.connect();
	globalThis[name] = holder;
	post('Runtime.evaluate', { expression: name }, (error, reply) => {
		holderId = reply.result.objectId;
	});
	delete globalThis[name];
}

// The value itself of what the inspector describes.
function fetchObject(objectId) {
	post('Runtime.callFunctionOn', {
		functionDeclaration: 'function (value) { this.value = value; }',
		objectId: holderId, arguments: [{ objectId }], silent: true, returnByValue: true,
	}, () => {});
	const { value } = holder;
	holder.value = undefined;
	return value;
}

function fetch(remote) {
	if (remote.objectId !== undefined) {
		return fetchObject(remote.objectId);
	}
	const special = remote.unserializableValue;
	if (special === undefined) {
		return remote.type === 'undefined' ? undefined : remote.value;
	}
	return remote.type === 'bigint' ? toBigInt(special.slice(0, -1))
		: special in SPECIAL ? SPECIAL[special] : toNumber(special);
}

// `{a: 1}` is meant as an object, as consoles take it, if it is one.
function asObject(source) {
	if (!/^\s*\{/.test(source) || /;\s*$/.test(source)) {
		return source;
	}
	try {
		const wrapped = `(${source.trimEnd()}\n)`;
		new Script(wrapped);
		return wrapped;
	} catch {
		return source;
	}
}

// Where a SyntaxError is: { number, source, line, column }, else null.
function place(details, number, source) {
	const { exception, stackTrace } = details;
	// One that is thrown has a stack; this one has the place where parsing stopped.
	if (exception?.className !== SYNTAX_ERROR || details.url !== `cell-${number}` ||
		stackTrace?.callFrames?.[0]?.url === details.url) {
		return null;
	}
	return { number, source, line: details.lineNumber, column: details.columnNumber };
}

/**
 * Runs source as cell `number`; calls onResult({ thrown, value, place }) once, never from within,
 * unless the code is terminated or never ends.
 */
function evaluate(source, number, onResult) {
	const code = rewrite(asObject(source));
	post('Runtime.evaluate', {
		expression: `${code}\n//# sourceURL=cell-${number}`,
		replMode: true, awaitPromise: true, objectGroup: GROUP, generatePreview: false,
	}, (error, reply) => {
		if (error) {
			onResult({ thrown: true, value: new Error(error.message), place: null });
			return;
		}
		const details = reply.exceptionDetails;
		if (details === undefined) {
			onResult({ thrown: false, value: fetch(reply.result), place: null });
			return;
		}
		const value = fetch(details.exception ?? { type: 'string', value: details.text });
		onResult({ thrown: true, value, place: place(details, number, code) });
	});
}

/** After a cell: the inspector holds on to what it has described. */
function release() {
	post('Runtime.releaseObjectGroup', { objectGroup: GROUP }, () => {});
}

module.exports = { connect, evaluate, release };
