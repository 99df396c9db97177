// Figures between two states, and as people read them. The same rules as metrics/top.
"use strict";

const figures = {
  // since is what came in a histogram after an older state of it: [bound, n] pairs.
  since(now, before) {
    const old = new Map((before ? before.buckets : []).map((b) => [b.bound_seconds, b.n]));
    return now.buckets
      .map((b) => [b.bound_seconds, Math.max(0, b.n - (old.get(b.bound_seconds) || 0))])
      .filter((b) => b[1] > 0);
  },

  count(pairs) { return pairs.reduce((sum, b) => sum + b[1], 0); },

  // quantile is seconds that the share q did not exceed, or null if there were none.
  quantile(pairs, q) {
    const rank = Math.max(1, Math.round(q * figures.count(pairs)));
    let seen = 0;
    for (const [bound, n] of pairs) {
      seen += n;
      if (seen >= rank) return bound;
    }
    return null;
  },

  host(b) { return b.log_bytes + b.home_bytes + b.in_place_bytes + b.spare_bytes + b.state_bytes; },

  // between is what happened to a disk from an older state on.
  between(now, before, seconds) {
    const written = now.bytes.client_written_bytes - before.bytes.client_written_bytes;
    const host = figures.host(now.bytes) - figures.host(before.bytes);
    const timed = (name, h, old) => {
      const pairs = figures.since(h, old);
      return {
        name, rate: figures.count(pairs) / seconds,
        p50: figures.quantile(pairs, 0.5), p99: figures.quantile(pairs, 0.99), max: figures.quantile(pairs, 1),
      };
    };
    const commands = now.commands.map((c, i) => timed(c.command, c, before.commands[i]));
    return {
      read: (now.bytes.client_read_bytes - before.bytes.client_read_bytes) / seconds,
      written: written / seconds,
      host: host / seconds,
      amplification: written > 0 ? host / written : null,
      requests: commands.reduce((sum, c) => sum + c.rate, 0),
      commands,
      flush: timed("log flush", now.flush, before.flush),
    };
  },

  // size is bytes as [number, unit].
  size(bytes) {
    let unit = 0;
    while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit++; }
    return [unit === 0 || bytes >= 100 ? bytes.toFixed(0) : bytes.toFixed(1), ["B", "KiB", "MiB", "GiB", "TiB"][unit]];
  },

  sizeText(bytes) { return figures.size(bytes).join(" "); },

  duration(seconds) {
    if (seconds === null) return "–";
    if (seconds >= 10) return seconds.toFixed(0) + " s";
    if (seconds >= 1) return seconds.toFixed(1) + " s";
    if (seconds >= 0.01) return (seconds * 1e3).toFixed(0) + " ms";
    if (seconds >= 0.001) return (seconds * 1e3).toFixed(1) + " ms";
    return (seconds * 1e6).toFixed(0) + " µs";
  },

  age(seconds) {
    seconds = Math.max(0, Math.floor(seconds));
    const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
    if (days > 0) return `${days} d ${hours} h`;
    if (hours > 0) return `${hours} h ${minutes} min`;
    if (minutes > 0) return `${minutes} min ${seconds % 60} s`;
    return `${seconds} s`;
  },

  number(n) {
    return n > 0 && n < 10 ? n.toFixed(1) : Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
  },
};
