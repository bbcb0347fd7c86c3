// The agent's side of the guest ABI: what the host's calls do in JavaScript.
//
// Owns: `ctx`, the globals that an engine without a browser lacks (console, timers, crypto, text
// codecs), one promise per message, stack traces.  Not: the exports; guest.c calls what is
// returned at the end.
// R1  an exception in the turn that brought the message fails the turn; one in a later turn refuses
//     the request and leaves what the other handlers did alone.
// R2  an answer to an operation that nobody awaits any more is dropped.
// R3  no state of the random generator survives `restored`.
(function (host) {
  const REFUSED = 1, FORKED = 2, RESTORED = 3;
  const FORK_COUNT_MAX = 10000;
  const LABEL_CHARS_MAX = 63;
  const SLEEP_NS_MAX = 2 ** 63 - 1024; // the largest double below the host's bound
  // What the host did not even take, by the number that it gives instead of an operation's.
  const DENIED = {
    [-1]: ["LIMIT", "one turn asked for too much, or too many operations are open; await some"],
    [-2]: ["BADVALUE", "the host takes no such key, label or number"],
    [-3]: ["LIMIT", "the payload is longer than net.payload_bytes_max, or than one turn may leave"],
  };
  const PRINT_CHARS_MAX = 1 << 20;
  const HOLD_CHARS_MAX = 1 << 14;

  class Refused extends Error {
    constructor(code, text) {
      super(`${code} ${text}`.trimEnd());
      this.name = "Refused";
      this.code = code;
      this.text = text;
    }
  }

  class Forked extends Error {
    constructor() {
      super("the awaited operation belongs to the agent forked from");
      this.name = "Forked";
    }
  }

  // ---- operations of the host ----

  const open = new Map();

  function operation(number, convert) {
    if (number < 0) throw new Refused(...DENIED[number]);
    return new Promise((resolve, reject) => open.set(number, { resolve, reject, convert }));
  }

  function nanoseconds(span, each) {
    if (Number.isNaN(span)) throw new RangeError("a time that is not a number");
    return Math.min(Math.max(0, Math.round(span * each)), SLEEP_NS_MAX);
  }

  // A label as the host takes it; none for the newest checkpoint.
  function checked(label) {
    if (label.length > LABEL_CHARS_MAX || !/^[!-~]*$/.test(label)) {
      const allowed = `1 to ${LABEL_CHARS_MAX} characters of visible ASCII without spaces`;
      throw new RangeError(`the label is ${JSON.stringify(label)}; allowed: ${allowed}`);
    }
    return label;
  }

  const asText = (payload) => (typeof payload === "string" ? payload : host.decode(payload));

  function result(number, status, payload) {
    const waiting = open.get(number);
    if (waiting === undefined) return; // R2
    open.delete(number);
    if (status === REFUSED) {
      const text = asText(payload);
      const space = text.indexOf(" ");
      const code = space < 0 ? text : text.slice(0, space);
      waiting.reject(new Refused(code, space < 0 ? "" : text.slice(space + 1)));
    } else if (status === FORKED) {
      waiting.reject(new Forked());
    } else {
      try {
        waiting.resolve(waiting.convert(payload, status));
      } catch (error) {
        waiting.reject(error);
      }
    }
  }

  // A payload: text and bytes as they are, nothing for undefined and null, else JSON.
  function toPayload(value) {
    if (typeof value === "string" || value instanceof Uint8Array) return value;
    if (value === undefined || value === null) return "";
    if (value instanceof ArrayBuffer) return new Uint8Array(value);
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError(`${typeof value} cannot be sent: not JSON`);
    return text;
  }

  // ---- ctx ----

  class Response {
    constructor(status, headers, body) {
      this.status = status;
      this.headers = headers;
      this.body = body;
    }
    get ok() {
      return this.status >= 200 && this.status < 300;
    }
    text() {
      return asText(this.body);
    }
    json() {
      return JSON.parse(this.text());
    }
  }

  function toResponse(payload) {
    const { status, headers = {}, body = "", body_base64 } = JSON.parse(payload);
    const lower = Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]);
    const bytes = body_base64 === undefined ? body : Uint8Array.fromBase64(body_base64);
    return new Response(status, Object.fromEntries(lower), bytes);
  }

  const ctx = {
    key: "",
    state: {},
    async call(key, payload) {
      return operation(host.call(key, toPayload(payload)), (reply) => reply);
    },
    send(key, payload) {
      const code = host.send(key, toPayload(payload));
      if (code !== 0) throw new Refused("SEND", `the message to ${key} was not taken (${code})`);
    },
    async sleep(seconds) {
      return operation(host.sleep(nanoseconds(Number(seconds), 1e9)), () => undefined);
    },
    async http(url, { method = "GET", headers = {}, body, secrets = [] } = {}) {
      const request = { method, url, headers, secrets };
      const payload = toPayload(body);
      if (typeof payload === "string") request.body = payload;
      else request.body_base64 = payload.toBase64();
      return operation(host.http(JSON.stringify(request)), toResponse);
    },
    async checkpoint(label = "") {
      return operation(host.checkpoint(checked(label ?? "")), (payload, status) => {
        const version = /^\d+$/.test(payload) ? Number(payload) : payload;
        return { version, restored: status === RESTORED };
      });
    },
    async fork(count = 1) {
      if (!(Number.isInteger(count) && count >= 1 && count <= FORK_COUNT_MAX)) {
        throw new RangeError(`${count} branches asked for; allowed: 1 to ${FORK_COUNT_MAX}`);
      }
      return operation(host.fork(count), (payload, status) => {
        if (status === RESTORED) return { index: Number(payload), keys: [] };
        return { index: 0, keys: payload === "" ? [] : payload.split("\n") };
      });
    },
    async rollback(label = "") {
      return operation(host.rollback(checked(label ?? "")), () => undefined);
    },
    log(text) {
      host.log(String(text));
    },
  };

  // ---- showing values ----

  const inside = (items) => (items.length > 0 ? ` ${items.join(", ")} ` : "");

  function inspect(value, depth = 0, seen = []) {
    if (typeof value === "string") return depth === 0 ? value : JSON.stringify(value);
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value === "symbol") return value.toString();
    if (typeof value === "function") return value.name ? `[Function: ${value.name}]` : "[Function]";
    if (Object.is(value, -0)) return "-0";
    if (typeof value !== "object" || value === null) return String(value);
    if (value instanceof Error) return describe(value);
    if (seen.includes(value)) return "[Circular]";
    const below = [...seen, value];
    const show = (item) => inspect(item, depth + 1, below);
    const name = value.constructor?.name ?? "Object";
    if (depth > 3) return Array.isArray(value) ? "[Array]" : `[${name}]`;
    if (value instanceof Date) return isNaN(value) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (value instanceof Promise) return "Promise {}";
    if (Array.isArray(value) || ArrayBuffer.isView(value)) {
      const items = Array.from(value).slice(0, 100).map(show);
      if (value.length > 100) items.push(`... ${value.length - 100} more`);
      return `${Array.isArray(value) ? "" : `${name} `}[${inside(items)}]`;
    }
    let items;
    if (value instanceof Map) {
      items = [...value].map(([key, item]) => `${show(key)} => ${show(item)}`);
    } else if (value instanceof Set) {
      items = [...value].map(show);
    } else {
      const label = (key) => (/^[\w$]+$/.test(key) ? key : JSON.stringify(key));
      items = Object.keys(value).map((key) => `${label(key)}: ${show(value[key])}`);
    }
    if (items.length > 100) items.splice(100, items.length, `... ${items.length - 100} more`);
    const front = name === "Object" ? "" : `${name} `;
    return `${front}{${inside(items)}}`;
  }

  // An error with its stack, without the runtime's own frames.
  function describe(error) {
    // Without memory the engine may have none for the error either, and throws null.
    if (error === null || error?.message === "out of memory") {
      host.gc();
      return "InternalError: out of memory";
    }
    if (!(error instanceof Error)) return `Uncaught ${inspect(error, 1)}`;
    const frames = String(error.stack ?? "").split("\n");
    const own = frames.filter((line) => line.trim() && !line.includes("heronry:runtime") &&
      !line.includes("(native)"));
    const cause = error.cause === undefined ? "" : `\nCaused by: ${describe(error.cause)}`;
    return [String(error), ...own].join("\n") + cause;
  }

  // ---- output: caught for the newest exec request that is open, else written after the turn ----

  const held = { 1: "", 2: "" };
  const catchers = [];

  function print(descriptor, text) {
    const catcher = catchers.at(-1);
    if (catcher === undefined) {
      held[descriptor] += text;
      if (held[descriptor].length > HOLD_CHARS_MAX) flush(descriptor);
      return;
    }
    const room = PRINT_CHARS_MAX - catcher.text.length;
    catcher.cut += Math.max(0, text.length - room);
    catcher.text += text.slice(0, room);
  }

  function flush(descriptor) {
    if (held[descriptor] === "") return;
    host.write(descriptor, held[descriptor]);
    held[descriptor] = "";
  }

  function printed(catcher) {
    const cut = catcher.cut > 0 ? `\n[${catcher.cut} more characters of output were cut]\n` : "";
    return catcher.text + cut;
  }

  const line = (descriptor) => (...values) =>
    print(descriptor, values.map((value) => inspect(value)).join(" ") + "\n");
  globalThis.console = {
    log: line(1), info: line(1), debug: line(1), warn: line(2), error: line(2), trace: line(2),
    assert: (condition, ...values) => condition || line(2)("Assertion failed:", ...values),
  };

  // ---- globals ----

  const timers = new Map();
  let timerCount = 0;

  function setTimer(callback, ms, repeat, values) {
    const timer = ++timerCount;
    const start = () => {
      const ns = nanoseconds(Number(ms ?? 0) || 0, 1e6);
      operation(host.sleep(ns), () => undefined).then(ring, () => timers.delete(timer));
    };
    const ring = () => {
      if (!timers.delete(timer)) return;
      try {
        if (repeat) begin();
      } finally {
        callback(...values);
      }
    };
    const begin = () => {
      start(); // throws where the host takes no more sleeps
      timers.set(timer, true);
    };
    begin();
    return timer;
  }

  globalThis.setTimeout = (callback, ms, ...values) => setTimer(callback, ms, false, values);
  globalThis.setInterval = (callback, ms, ...values) => setTimer(callback, ms, true, values);
  globalThis.clearTimeout = globalThis.clearInterval = (timer) => void timers.delete(timer);

  globalThis.TextEncoder = class TextEncoder {
    encoding = "utf-8";
    encode(text = "") {
      return host.encode(String(text));
    }
  };
  globalThis.TextDecoder = class TextDecoder {
    encoding = "utf-8";
    decode(bytes = new Uint8Array()) {
      if (bytes instanceof ArrayBuffer) return host.decode(new Uint8Array(bytes));
      return host.decode(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    }
  };

  globalThis.crypto = {
    getRandomValues(array) {
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      bytes.set(host.random(bytes.length));
      return array;
    },
    randomUUID() {
      const bytes = host.random(16);
      bytes[6] = (bytes[6] & 0x0f) | 0x40;
      bytes[8] = (bytes[8] & 0x3f) | 0x80;
      const hex = bytes.toHex();
      const cuts = [0, 8, 12, 16, 20, 32];
      return cuts.slice(1).map((end, idx) => hex.slice(cuts[idx], end)).join("-");
    },
  };

  // Math.random: sfc32, seeded by the host at its first use after a start or a restore (R3).
  let seed = null;
  Math.random = function random() {
    if (seed === null) seed = new Uint32Array(host.random(16).buffer);
    const word = () => {
      const sum = (seed[0] + seed[1] + seed[3]++) | 0;
      seed[0] = seed[1] ^ (seed[1] >>> 9);
      seed[1] = seed[2] + (seed[2] << 3);
      seed[2] = ((seed[2] << 21) | (seed[2] >>> 11)) + sum;
      return sum >>> 0;
    };
    return ((word() >>> 5) * 67108864 + (word() >>> 6)) / 9007199254740992;
  };

  // ---- turns ----

  let exported = {};
  let turn = 0; // the request whose message this call of the host brought, 0 in any other call
  let failure; // what that request's handler raised
  let execCount = 0;
  const rejections = new Map();

  function raised(request, error) {
    if (error instanceof Forked) return;
    if (request === turn) failure = describe(error);
    else host.refuse(request, describe(error));
  }

  async function handle(request, handler, message) {
    let payload;
    try {
      payload = toPayload(await handler(ctx, message));
    } catch (error) {
      raised(request, error);
      return;
    }
    host.reply(request, payload);
  }

  function message(request, payload) {
    const handler = globalThis.onMessage ?? exported.onMessage ?? exported.default;
    if (typeof handler !== "function") {
      host.refuse(request, "the agent exports no function onMessage(ctx, message)");
      return;
    }
    turn = request;
    handle(request, handler, payload);
  }

  async function execute(request, source) {
    const catcher = { text: "", cut: 0 };
    catchers.push(catcher);
    try {
      const { value } = await host.evaluate(asText(source), `<exec-${++execCount}>`);
      if (value !== undefined) print(1, inspect(value, typeof value === "string" ? 1 : 0) + "\n");
      host.reply(request, printed(catcher));
    } catch (error) {
      if (!(error instanceof Forked)) host.refuse(request, printed(catcher) + describe(error));
    } finally {
      catchers.splice(catchers.indexOf(catcher), 1);
    }
  }

  // The end of every call of the host: the text of the turn's failure, or undefined.
  function finish() {
    for (const reason of rejections.values()) {
      if (!(reason instanceof Forked)) console.error("Uncaught (in promise)", reason);
    }
    if (rejections.size > 0) rejections.clear();
    flush(1);
    flush(2);
    const text = failure;
    if (text !== undefined) failure = undefined;
    if (turn !== 0) turn = 0;
    return text;
  }

  function rejection(promise, reason, handled) {
    if (handled) rejections.delete(promise);
    else rejections.set(promise, reason);
  }

  function loaded(namespace) {
    exported = namespace;
    globalThis.agent = namespace;
  }

  function restored() {
    ctx.key = host.key();
    seed = null;
  }

  globalThis.ctx = ctx;
  const library = { ctx, Refused, Forked };
  return { loaded, message, result, execute, restored, finish, describe, rejection, library };
});
