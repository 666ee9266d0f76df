"""A trainer that prints the contract's lines and trains nothing.

Tests set its behaviour by constants that `write_trainer` puts above this text: LOSS, SD, MS,
STEPS, MODE, SLEEP_S. It claims tens of milliseconds, which the clock check cannot tell from what
passed outside. Its noise comes from the operating system, as a real unseeded run's does.
"""

# ruff: noqa: F821

import os
import random
import signal
import subprocess
import sys
import time

draw = random.SystemRandom()


def val(step, loss, ms):
    print(
        f"step:{step}/{STEPS} val_loss:{loss} train_time:{ms:.3f}ms "
        f"step_avg:{ms / max(step, 1):.4f}ms",
        flush=True,
    )


def main():
    print("a line that is no result", flush=True)
    if MODE == "crash":
        raise RuntimeError("CUDA out of memory (pretended)")
    if MODE == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if MODE == "garbage":
        print("\x1b[2J\x00\xff no numbers here")
        return
    if MODE == "flood":
        while True:
            print("x" * 4000)
    if MODE == "longline":
        sys.stdout.write("x" * (3 << 20))
        return
    if MODE == "fork":
        # Two children that leave the session, ignore SIGTERM and hold stdout open.
        code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        for _ in range(2):
            subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    factor = 1 + draw.gauss(0, TIME_SD)
    for quarter in range(5):
        step = STEPS * quarter // 4
        loss = LOSS + (10.8 - LOSS) * (1 - quarter / 4) ** 3
        loss += draw.gauss(0, SD)
        if quarter == 2 and MODE == "stop-half":
            return
        if quarter == 4 and MODE == "nan":
            loss = float("nan")
        val(step, f"{loss:.6f}", MS * factor * quarter / 4)
        time.sleep(SLEEP_S / 4)
    if MODE == "exit3":
        sys.exit(3)


if __name__ == "__main__" and os.environ.get("RANK", "0") == "0":
    main()
