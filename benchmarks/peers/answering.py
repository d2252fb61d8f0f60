"""A runtime that answers requests: a line of JSON comes in for each, one goes out, until the input ends."""

import json
import sys


def answer(version, embed):
    """Say the version, then answer.

    `embed` takes texts and the prompt in front of all of them, and gives vectors; where it fails, its words go out.
    """
    _say({"version": version})
    for line in sys.stdin:
        try:
            vectors = [[float(number) for number in vector] for vector in embed(**json.loads(line))]
        except Exception as error:  # a text that the runtime does not take is what is looked for
            _say({"refused": str(error).strip() or type(error).__name__})
        else:
            _say({"vectors": vectors})
    return {}


def _say(found):
    print(f"\n{json.dumps(found)}", flush=True)  # on a line of its own, whatever libraries print
