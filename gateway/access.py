"""Who may do what over HTTP: bearer tokens, compared in constant time. Pure but for the clock it is given."""

import hmac
from collections.abc import Callable, Sequence
from enum import Enum, auto

from gateway.invocation import Failure
from runtime.tokens import Role, Token, digest

SCHEME = "Bearer "
HEADER_LENGTH_MAX = 512


class Needs(Enum):
    """What an operation asks of its caller."""

    NOTHING = auto()
    INVOKE = auto()
    ADMIN = auto()


class AccessError(Exception):
    """The caller may not. `challenge`: the WWW-Authenticate header, or '' when another token would not help."""

    def __init__(self, failure: Failure, challenge: str) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.challenge = challenge


class Access:
    """The tokens as pagurusd tells them.

    is_forced: they are needed even when there is none, which refuses everybody. Without that they are needed as soon
    as there is one.
    """

    def __init__(self, tokens: Sequence[Token], *, is_forced: bool, wall_s: Callable[[], float]) -> None:
        self._is_forced = is_forced
        self._wall_s = wall_s
        self._tokens: tuple[tuple[bytes, Token], ...] = ()
        self.is_required = True
        self.put(tokens)

    def put(self, tokens: Sequence[Token]) -> None:
        """Replace all tokens."""
        self._tokens = tuple((one.sha256.encode(), one) for one in tokens)
        self.is_required = self._is_forced or bool(self._tokens)

    def check(self, header: str | None, needs: Needs, function: str) -> None:
        """Whether the bearer of this Authorization header may. Raises AccessError; never tells what was presented."""
        if needs is Needs.NOTHING or not self.is_required:
            return
        if header is None:
            raise _unauthorized("this node wants a token: Authorization: Bearer …", "")
        token = self._find(header)
        if token is None:
            raise _unauthorized("the token is not one of this node's", ', error="invalid_token"')
        if not token.is_live(self._wall_s()):
            raise _unauthorized(f"the token {token.name} has expired", ', error="invalid_token"')
        if token.role is Role.ADMIN:
            return
        if needs is not Needs.INVOKE:
            raise _forbidden(f"the token {token.name} may invoke functions only")
        if token.functions and function not in token.functions:
            raise _forbidden(f"the token {token.name} may not invoke this function")

    def _find(self, header: str) -> Token | None:
        """Every token is compared, whether or not one has matched: time tells nothing."""
        if len(header) > HEADER_LENGTH_MAX or header[: len(SCHEME)].lower() != SCHEME.lower():
            return None
        presented = digest(header[len(SCHEME) :].strip()).encode()
        found: Token | None = None
        for kept, token in self._tokens:
            if hmac.compare_digest(presented, kept):
                found = token
        return found


def _unauthorized(detail: str, error: str) -> AccessError:
    hint = "`pagurus token create NAME` as root makes one; pagurus takes it from PAGURUS_TOKEN or --token-file"
    return AccessError(Failure(word="unauthorized", detail=detail, hint=hint), f'Bearer realm="pagurus"{error}')


def _forbidden(detail: str) -> AccessError:
    return AccessError(Failure(word="forbidden", detail=detail), "")
