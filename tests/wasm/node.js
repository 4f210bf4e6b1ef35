// Calls the wasm module as a page would: time and seeds from JavaScript, bytes in and out.
//
//     node tests/wasm/node.js folder-of-the-bundle
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
const test = require("node:test");
const { webcrypto } = require("node:crypto");

// What every page has. Node got it as a global with version 20.
globalThis.crypto ??= webcrypto;

const wasm = require(path.resolve(process.argv[2], "conclave_wasm_tests.js"));

const seed = () => crypto.getRandomValues(new Uint8Array(32));

for (const kind of ["yjs", "automerge"]) {
  test(`${kind}: a member opens what another sealed`, () => {
    const pair = new wasm.Pair(kind, "Dear Ben", seed(), Date.now());
    const record = pair.seal(", hello – ¿qué tal? 🌿");
    assert.ok(record instanceof Uint8Array && record.length > 100);
    assert.equal(pair.shows(record, "hello"), false);
    assert.equal(pair.shows(record, "Dear Ben"), false);
    assert.equal(pair.open(record), "Dear Ben, hello – ¿qué tal? 🌿");
  });

  test(`${kind}: a record with one flipped bit is refused, wherever it is`, () => {
    const pair = new wasm.Pair(kind, "Dear Ben", seed(), Date.now());
    const record = pair.seal(", hello");
    for (let at = 0; at < record.length; at += 7) {
      const changed = record.slice();
      changed[at] ^= 1;
      assert.throws(() => pair.open(changed), Error, `byte ${at}`);
    }
    // The refusals left nothing behind.
    assert.equal(pair.open(record), "Dear Ben, hello");
  });

  test(`${kind}: another group's member cannot open it`, () => {
    const [pair, other] = [1, 2].map(() => new wasm.Pair(kind, "Dear Ben", seed(), Date.now()));
    const record = pair.seal("!");
    assert.throws(() => other.open(record), /refused/);
    assert.equal(pair.open(record), "Dear Ben!");
  });

  test(`${kind}: an engine keeps a group and a document over its rows`, () => {
    assert.equal(wasm.runEngine(kind, "Dear Ben, hello", seed(), Date.now()), "Dear Ben, hello");
  });
}

test("a seed of a wrong length is an exception, not a crash", () => {
  assert.throws(() => wasm.runEngine("yjs", "x", new Uint8Array(31), Date.now()), Error);
});
