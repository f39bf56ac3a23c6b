"""Token buckets: how much may come how fast. Pure: the time is an argument.

Nothing here waits or sleeps; who asks decides what a refusal means.
"""

__all__ = ["Bucket", "Meter"]


class Bucket:
    """Holds up to `burst` tokens and gains `per_s` of them each second; starts full."""

    def __init__(self, *, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, tokens: float, now: float) -> bool:
        """Take tokens; False when there are too few, and then none is taken.

        More than the bucket can ever hold is given when it is full.
        """
        self._gain(now)
        if self._tokens < min(tokens, self._burst):
            return False
        self._tokens -= tokens
        return True

    def wait_s(self, tokens: float, now: float) -> float:
        """Return the seconds until `tokens` more could be taken."""
        self._gain(now)
        return max(0.0, (tokens - self._tokens) / self._per_s)

    def spend(self, tokens: float, now: float) -> float:
        """Take tokens on credit; return the seconds until the debt is paid, 0 without one."""
        self._gain(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._per_s)

    def full(self, now: float) -> bool:
        """Say whether the bucket is as if it had never been used."""
        self._gain(now)
        return self._tokens >= self._burst

    def _gain(self, now: float) -> None:
        # A clock that went back gives nothing and takes nothing.
        passed_s = max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._burst, self._tokens + passed_s * self._per_s)


class Meter:
    """How much one peer asks: requests and bytes, and how far it goes beyond.

    Attributes:
        over: refusals that it has not waited for yet; falls as time passes.
    """

    def __init__(self, *, per_minute: int, bytes_per_minute: int, now: float) -> None:
        self.over = 0.0
        self._per_s = per_minute / 60
        self._requests = Bucket(per_s=self._per_s, burst=per_minute, now=now)
        self._bytes = Bucket(per_s=bytes_per_minute / 60, burst=bytes_per_minute, now=now)
        self._at = now

    def charge(self, size: int, now: float) -> float:
        """Charge one request; 0 = it may go on, else the seconds after which to ask again.

        Each refused request is given a later time than the one before, so that all of
        them do not come back at once.
        """
        self.over = max(0.0, self.over - max(0.0, now - self._at) * self._per_s)
        self._at = now
        wait_s = max(self._requests.wait_s(1, now), self._bytes.wait_s(size, now))
        if wait_s <= 0:
            self._requests.take(1, now)
            self._bytes.take(size, now)
            return 0.0
        self.over += 1
        return wait_s + (self.over - 1) / self._per_s

    def fine(self, requests: float, now: float) -> None:
        """Charge more for a request that was refused for good: it comes out of later ones."""
        self._requests.spend(requests, now)

    def idle(self, now: float) -> bool:
        """Say whether nothing is lost when this meter is thrown away."""
        return self._requests.full(now) and self._bytes.full(now)
