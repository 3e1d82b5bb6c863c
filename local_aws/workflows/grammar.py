"""moto's parser of the Amazon States Language."""

import json
import threading

from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser

_parsing = threading.Lock()  # the parsers of one grammar share what they learn


def parse_machine(definition: dict) -> Program:
    """The program of a definition in moto's dialect. Raises whatever moto's parser stumbles over."""
    with _parsing:
        program, _ = AmazonStateLanguageParser.parse(json.dumps(definition))
    return program
