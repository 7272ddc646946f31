// SPDX-License-Identifier: Apache-2.0
'use strict';

// What a cell finds in its global scope: require, module, import() and Node's own modules by name.
// All of it is relative to the directory the session is in, and may be replaced by user code.

const Module = require('module');
const path = require('path');
const { pathToFileURL } = require('url');
const { display } = require('./display.js');
const { IMPORTER } = require('./source.js');

const { create, defineProperty, getPrototypeOf, hasOwn } = Object;
const { prototype: objectPrototype } = Object;
const { prototype: functionPrototype } = Function;
const OwnProxy = Proxy;
const OwnSyntaxError = SyntaxError;
const { cwd } = process;
const FILE = 'cell';
const NOT_FOUND = new Set(['ERR_MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT']);

// Made again when the working directory changes.
const here = { directory: null, require: null, import: null };

function directory() {
	try {
		return cwd();
	} catch {
		return '/'; // it has been removed
	}
}

function atDirectory() {
	const now = directory();
	if (now !== here.directory) {
		const file = path.join(now, FILE);
		const importer = new Module(file);
		importer.filename = file;
		// The text of a module: import() in it is relative to its file.
		importer._compile('module.exports = (name, options) => import(name, options);', file);
		here.directory = now;
		here.require = Module.createRequire(file);
		here.import = importer.exports;
	}
	return here;
}

function has(object, key) {
	if (object === null || (typeof object !== 'object' && typeof object !== 'function')) {
		return false;
	}
	let at = object;
	while (at !== null && at !== objectPrototype && at !== functionPrototype) {
		if (hasOwn(at, key)) {
			return true;
		}
		at = getPrototypeOf(at);
	}
	return false;
}

// What `import { a } from` a module finds: its exports. Of CommonJS modules Node guesses names from
// their text, and misses many: then a property of the default, which is what they export.
function exportsByName(namespace, specifier) {
	return new OwnProxy(namespace, {
		get(target, key) {
			if (has(target, key)) {
				return target[key];
			}
			if (has(target.default, key)) {
				return target.default[key];
			}
			throw new OwnSyntaxError(
				`The requested module '${specifier}' does not provide an export named '${key}'`);
		},
	});
}

/** import(), and with `declared` what an import declaration is read as. */
async function importModule(name, options, declared = false) {
	const namespace = await importNamespace(name, options);
	if (!declared) {
		return namespace;
	}
	const parts = create(null); // what it is in must not have a `then`
	parts.namespace = namespace;
	parts.names = exportsByName(namespace, name);
	return parts;
}

async function importNamespace(name, options) {
	const current = atDirectory();
	try {
		return await current.import(name, options);
	} catch (error) {
		// NODE_PATH, where the image's packages are, is for require() only.
		let file;
		try {
			file = NOT_FOUND.has(error?.code) ? current.require.resolve(`${name}`) : null;
		} catch {
			file = null;
		}
		if (file === null || !path.isAbsolute(file)) {
			throw error;
		}
		return current.import(pathToFileURL(file).href, options);
	}
}

function makeRequire(main) {
	const require = (name) => atDirectory().require(name);
	require.resolve = (name, options) => atDirectory().require.resolve(name, options);
	require.resolve.paths = (name) => atDirectory().require.resolve.paths(name);
	require.main = main;
	require.extensions = Module._extensions;
	require.cache = Module._cache;
	return require;
}

function define(name, value, enumerable = false) {
	defineProperty(globalThis, name, { value, enumerable, configurable: true, writable: true });
}

// As in Node's REPL: loaded when first named.
function defineLibrary(name) {
	defineProperty(globalThis, name, {
		configurable: true,
		enumerable: false,
		get() {
			const library = here.require(name);
			define(name, library);
			return library;
		},
		set(value) {
			define(name, value, true);
		},
	});
}

function install() {
	const module = new Module(path.join(directory(), FILE));
	const { require } = atDirectory();
	module.filename = module.id;
	module.paths = require.resolve.paths('x') ?? [];
	module.loaded = true;
	define('module', module);
	define('exports', module.exports);
	define('require', makeRequire(module));
	define('display', display);
	define(IMPORTER, importModule);
	for (const [name, get] of [
		['__dirname', directory],
		['__filename', () => path.join(directory(), FILE)],
	]) {
		defineProperty(globalThis, name, {
			configurable: true, get, set: (value) => define(name, value, true),
		});
	}
	for (const name of Module.builtinModules) {
		if (!name.startsWith('_') && !name.includes('/') && !hasOwn(globalThis, name)) {
			defineLibrary(name);
		}
	}
}

module.exports = { install };
