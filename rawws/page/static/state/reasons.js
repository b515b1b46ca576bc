// Why a WebSocket of the page never opened. A page isn't told (it gets 1006 whatever happened), but the server knows.

// Another try may find a server that has time, or room, by then.
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

/**
 * The reason in a sentence, and whether trying again may help. `connection` is what the server saw, if that is known;
 * `isOurs` says whether the URL is this server's, and `isWatching` whether the server can be reached.
 */
export function whyNotOpen({ url, connection, isOurs, isWatching }) {
  if (connection?.refused) {
    const { status, code, told } = connection.refused;
    return { told: `refused with ${status} (${code}): ${told}`, mayHelp: PASSING.has(status) };
  }
  const failed = failedChecks(connection);
  if (connection?.response && connection.status !== 101) {
    const why = failed.length ? `: not so: ${failed.join("; ")}` : "";
    return { told: `answered with ${connection.response.lines[0].replace(/^HTTP\/\S+ /, "")}${why}`, mayHelp: PASSING.has(connection.status) };
  }
  if (connection?.response) {
    const offered = connection.field("Sec-WebSocket-Protocol");
    const chose = connection.response.lines.some((line) => /^sec-websocket-protocol:/i.test(line));
    if (offered !== null && !chose) {
      const told = `no common subprotocol: the server speaks none of ${offered}, so the browser gave up after the 101`;
      return { told, mayHelp: false };
    }
    const why = failed.length ? ` because this is not so: ${failed.join("; ")}` : "";
    return { told: `the browser gave up after the server's 101${why}`, mayHelp: !failed.length };
  }
  const host = new URL(url).host;
  if (!isWatching && isOurs) return { told: "the server can't be reached", mayHelp: true };
  if (isOurs) return { told: "the browser sent nothing that this server has seen", mayHelp: true };
  return { told: `${host} did not answer, or refused: browsers don't tell a page which, and this server doesn't see it`, mayHelp: true };
}

function failedChecks(connection) {
  const checks = connection ? [...connection.checks.client, ...connection.checks.server] : [];
  return checks.filter((check) => !check.holds).map((check) => check.requirement);
}
