// SPDX-License-Identifier: Apache-2.0
'use strict';

// The process as user code finds it.

const Module = require('module');
const path = require('path');

const { process } = globalThis; // user code may replace it
const { apply } = Reflect;

/** Arguments for native.start(): Node's record of async contexts. */
function asyncFields() {
	const quiet = process.noDeprecation;
	process.noDeprecation = true;
	const wrap = process.binding('async_wrap');
	process.noDeprecation = quiet;
	return [wrap.async_hook_fields, wrap.async_id_fields, wrap.constants.kStackLength];
}

// Node would take SIGINT away from the driver for a listener, and reset it to its deadly default
// with the last. SIGINT ends the running cell; listeners for it are kept and never called.
function ignoreSigintListeners() {
	for (const event of ['newListener', 'removeListener']) {
		for (const listener of process.listeners(event)) {
			process.removeListener(event, listener);
			process.on(event, (type, ...rest) => {
				if (type !== 'SIGINT') {
					apply(listener, process, [type, ...rest]);
				}
			});
		}
	}
}

// "The Fetch API is an experimental feature", once per session, is not about the user's program.
function quietExperiments() {
	for (const listener of process.listeners('warning')) {
		process.removeListener('warning', listener);
		process.on('warning', (warning) => {
			if (warning?.name !== 'ExperimentalWarning') {
				apply(listener, process, [warning]);
			}
		});
	}
}

function install(exit) {
	process.exit = process.reallyExit = (code) => exit(code);
	process.argv = [process.execPath];
	process.execArgv = []; // not for the processes and threads that user code starts
	process.mainModule = undefined;
	ignoreSigintListeners();
	quietExperiments();
	const own = __dirname + path.sep;
	for (const file of Object.keys(Module._cache)) {
		if (file.startsWith(own)) {
			delete Module._cache[file];
		}
	}
}

module.exports = { asyncFields, install };
