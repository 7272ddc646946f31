// SPDX-License-Identifier: Apache-2.0
'use strict';

// What a cell may say that V8's REPL mode cannot run: `import x from 'y'` and `import()`. Both
// become calls of the driver's own importer. Only cells with the word `import` in them come here.

const IMPORTER = '__import';

const IDENTIFIER = '[\\p{ID_Start}$_][\\p{ID_Continue}$\\u200c\\u200d]*';
const NAMES = '\\{[^{}]*\\}';
const NAMESPACE = `\\*\\s*as\\s+${IDENTIFIER}`;
const SPECIFIER = '("(?:[^"\\\\\\n]|\\\\.)*"|\'(?:[^\'\\\\\\n]|\\\\.)*\')';
const ATTRIBUTES = '(?:\\s*(?:assert|with)\\s*(\\{[^{}]*\\}))?';
const DECLARATION = new RegExp(
	`import\\s*(?:(${IDENTIFIER})\\s*(?=,|\\s+from\\b))?,?\\s*(?:(${NAMES})|(${NAMESPACE}))?\\s*` +
	`(?:\\bfrom\\s*)?${SPECIFIER}${ATTRIBUTES}\\s*;?`, 'yu');
const CALL = /import\s*\(/y;
const WORD = new RegExp(IDENTIFIER, 'yu');
const NUMBER = /\.?\d(?:[\w.]|[eE][+-])*/y;
const REGEXP = /\/(?:[^\\/[\n]|\\.|\[(?:[^\\\]\n]|\\.)*\])+\/[a-z]*/y;
// After these words a slash begins a regular expression; after other words it divides.
const BEFORE_VALUE = new Set(['await', 'case', 'delete', 'do', 'else', 'in', 'instanceof', 'new',
	'of', 'return', 'throw', 'typeof', 'void', 'yield']);

/** Walks over a source, telling code from strings, templates, comments, regular expressions. */
class Scanner {
	constructor(source) {
		this.source = source;
		this.at = 0;
		this.depth = 0;		// of brackets
		this.templates = [];	// depths at which a template's ${ was opened
		this.afterValue = false;
		this.afterDot = false;
		this.atStatement = true;
	}

	match(pattern) {
		pattern.lastIndex = this.at;
		return pattern.exec(this.source);
	}

	skipTo(end, length) {
		const found = this.source.indexOf(end, this.at + length);
		this.at = found < 0 ? this.source.length : found + end.length;
	}

	skipString(quote) {
		const { source } = this;
		for (this.at++; this.at < source.length && source[this.at] !== quote; this.at++) {
			if (source[this.at] === '\\') {
				this.at++;
			}
		}
		this.at++;
	}

	// From behind ` or } to behind the closing ` or the next ${.
	skipTemplate() {
		const { source } = this;
		for (; this.at < source.length && source[this.at] !== '`'; this.at++) {
			if (source[this.at] === '\\') {
				this.at++;
			} else if (source[this.at] === '$' && source[this.at + 1] === '{') {
				this.at += 2;
				this.templates.push(this.depth++);
				this.value(false);
				return;
			}
		}
		this.at++;
		this.value(true);
	}

	value(isValue) {
		this.afterValue = isValue;
		this.afterDot = false;
		this.atStatement = false;
	}

	/** Moves over one piece of the source that is not a word; false at a word or at the end. */
	skipOther() {
		const char = this.source[this.at];
		const next = this.source[this.at + 1];
		if (char === '/' && next === '/') {
			this.skipTo('\n', 2);
			this.at -= this.source[this.at - 1] === '\n' ? 1 : 0;
		} else if (char === '/' && next === '*') {
			this.skipTo('*/', 2);
		} else if (char === '"' || char === "'") {
			this.skipString(char);
			this.value(true);
		} else if (char === '`') {
			this.at++;
			this.skipTemplate();
		} else {
			this.skipPunctuation(char);
		}
	}

	skipPunctuation(char) {
		const regexp = char === '/' && !this.afterValue ? this.match(REGEXP) : null;
		const number = regexp === null ? this.match(NUMBER) : null;
		if (regexp !== null || number !== null) {
			this.at += (regexp ?? number)[0].length;
			this.value(true);
			return;
		}
		this.at++;
		if (char === '\n') {
			this.atStatement = this.depth === 0;
		} else if (char.trim() !== '') {
			this.punctuation(char);
		}
	}

	punctuation(char) {
		if (char === '}' && this.templates.at(-1) === this.depth - 1) {
			this.depth = this.templates.pop();
			this.skipTemplate();
			return;
		}
		this.depth += '([{'.includes(char) ? 1 : ')]}'.includes(char) ? -1 : 0;
		this.value(char === ')' || char === ']');
		this.afterDot = char === '.';
		this.atStatement = this.depth === 0 && (char === ';' || char === '}');
	}
}

// `{ a, b as c }` of an import as the pattern of a const declaration.
function pattern(names) {
	return names.replace(/\s+as\s+/g, ': ');
}

function declaration(found) {
	const [whole, name, names, namespace, specifier, attributes] = found;
	const options = attributes ? `{assert: ${attributes}}` : 'void 0';
	const call = `await ${IMPORTER}(${specifier}, ${options}, true)`;
	const targets = [];
	if (namespace !== undefined) {
		targets.push(namespace.replace(/^\*\s*as\s+/, 'namespace: '));
	}
	if (names !== undefined) {
		targets.push(`names: ${pattern(names)}`);
	}
	if (name !== undefined) {
		targets.push(`names: {default: ${name}}`);
	}
	// Lines stay where they are, so that errors name the right ones.
	const lines = '\n'.repeat(
		whole.split('\n').length - 1 - (names === undefined ? 0 : names.split('\n').length - 1));
	const statements = targets.map((target) => `const {${target}} = ${call};`);
	return (targets.length > 0 ? statements.join(' ') : `void ${call};`) + lines;
}

/** The source with imports replaced, or as it is. */
function withImports(source) {
	const scanner = new Scanner(source);
	let out = '';
	let copied = 0;
	while (scanner.at < source.length) {
		const word = scanner.match(WORD);
		if (word === null) {
			scanner.skipOther();
			continue;
		}
		const call = word[0] === 'import' && !scanner.afterDot ? scanner.match(CALL) : null;
		const statement = word[0] === 'import' && call === null && scanner.atStatement
			? scanner.match(DECLARATION) : null;
		if (call !== null || statement !== null) {
			out += source.slice(copied, scanner.at);
			out += call !== null ? `${IMPORTER}` : declaration(statement);
			copied = scanner.at + (call !== null ? word[0] : statement[0]).length;
			scanner.at = copied;
			scanner.value(true);
			scanner.atStatement = statement !== null;
			continue;
		}
		scanner.at += word[0].length;
		scanner.value(scanner.afterDot || !BEFORE_VALUE.has(word[0]));
	}
	return out + source.slice(copied);
}

function rewrite(source) {
	return /\bimport\b/.test(source) ? withImports(source) : source;
}

module.exports = { rewrite, IMPORTER };
