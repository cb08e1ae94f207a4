#!/usr/bin/env python3
"""Writes python_json_golden.txt: JSON texts and what Python makes of them.

Pairs of lines: a text, then json.dumps(json.loads(text), ensure_ascii=False). Run it in this
folder; the seed is fixed.
"""
import json
import random
import struct

rng = random.Random(20)
CHARS = ['a', 'Z', '0', ' ', '"', '\\', '/', '\b', '\f', '\n', '\r', '\t', '\x00', '\x1f', '\x7f',
         '\x80', 'é', 'ß', '中', '｜', '\u2028', '\ufeff', '\ufffd', '😀', '\U0010ffff', "'", '<', '&']


def quote(text):
    """One of the many ways to write a string in JSON."""
    out = []
    for c in text:
        way = rng.randrange(4)
        if way == 0:
            units = struct.unpack(f'<{len(c.encode("utf-16-le")) // 2}H', c.encode('utf-16-le'))
            out += [rng.choice(['\\u%04x', '\\u%04X']) % u for u in units]
        elif c == '/' and way == 1:
            out.append('\\/')
        elif ord(c) < 32 or c in '"\\':
            out.append(json.dumps(c)[1:-1])
        else:
            out.append(c)
    return '"' + ''.join(out) + '"'


def number():
    kind = rng.randrange(7)
    sign = rng.choice(['', '-'])
    if kind == 0:
        return sign + str(rng.randrange(10 ** rng.randrange(1, 40)))
    if kind == 1:
        return str(rng.choice([2**63 - 1, 2**63, -2**63, -2**63 - 1, 2**64 - 1, 2**64, 10**308, 10**400]))
    if kind == 2:
        return sign + f'{rng.randrange(100)}.{rng.randrange(10**rng.randrange(1, 25)):05d}'
    if kind == 3:
        exponent = rng.choice(['e', 'E']) + rng.choice(['', '+', '-']) + str(rng.randrange(30))
        return sign + str(rng.randrange(1000)) + rng.choice(['', '.0', '.50', '.123']) + exponent
    if kind == 4:
        while True:
            value = struct.unpack('<d', rng.randbytes(8))[0]
            if value == value and abs(value) != float('inf'):
                return repr(value)
    if kind == 5:
        return rng.choice(['0', '-0', '0.0', '-0.0', '1e-400', '-1e-400', '5e-324', '1e15', '1e16', '1e17',
                           '9007199254740993.0', '0.0001', '0.00001', '123456789012345680.0',
                           '9999999999999998.0', '1E+22', '1e23', '1.7976931348623157e308'])
    return repr(rng.choice([1.0, 10.0, 0.1, 2.5, 1 / 3, 1e100]) * rng.randrange(1, 10**6))


def string():
    return ''.join(rng.choice(CHARS) for _ in range(rng.randrange(8)))


def space():
    return rng.choice(['', '', '', ' ', '\t', '  '])


def value(depth):
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind < 2:
        return number()
    if kind == 2:
        return quote(string())
    if kind < 5:
        return rng.choice(['true', 'false', 'null'])
    count = rng.choice([0, 1, 2, 3, 5, 20] if depth < 1 else [0, 1, 2, 3])
    if kind == 5:
        items = [space() + value(depth + 1) + space() for _ in range(count)]
        return '[' + ','.join(items) + ']'
    # Few distinct keys, so that some repeat.
    keys = [string() if rng.randrange(2) else 'k%d' % rng.randrange(count + 2) for _ in range(count)]
    items = [space() + quote(k) + space() + ':' + space() + value(depth + 1) + space() for k in keys]
    return '{' + ','.join(items) + '}'


with open('python_json_golden.txt', 'w', encoding='utf-8', newline='\n') as out:
    for i in range(2000):
        text = value(0) if i % 3 else number()
        out.write(text + '\n')
        out.write(json.dumps(json.loads(text), ensure_ascii=False) + '\n')
