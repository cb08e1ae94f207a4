#!/usr/bin/env python3
"""Writes chat_golden.jsonl: random chat requests and the SHA-256 of their DeepSeek-V3.2 prompts.

The renderer here follows the official encoder's own structure (one function per message, indices
into the list), unlike the C++ one, so that the two can disagree. Run it in this folder; the seed is
fixed.
"""
import hashlib
import json
import random

rng = random.Random(32)

DSML = '｜DSML｜'
TOOLS = '\n'.join([
    '## Tools', '',
    "You have access to a set of tools you can use to answer the user's question.",
    f'You can invoke functions by writing a "<{DSML}function_calls>" block like the following as part of '
    'your reply to the user:',
    f'<{DSML}function_calls>', f'<{DSML}invoke name="$FUNCTION_NAME">',
    f'<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>',
    '...', f'</{DSML}invoke>', f'<{DSML}invoke name="$FUNCTION_NAME2">', '...', f'</{DSML}invoke>',
    f'</{DSML}function_calls>', '',
    'String and scalar parameters should be specified as is without any escaping or quotes, while lists '
    'and objects should use JSON format. The "string" attribute should be set to "true" for string type '
    'parameters and "false" for other types (numbers, booleans, arrays, objects).', '',
    'If the thinking_mode is enabled, then after function results you should strongly consider outputting '
    'a thinking block. Here is an example:', '',
    f'<{DSML}function_calls>', '...', f'</{DSML}function_calls>', '',
    '<function_results>', '...', '</function_results>', '',
    '<think>...thinking about results</think>', '',
    'Here are the functions available in JSONSchema format:', '<functions>', '%s', '</functions>', ''])
FORMAT = '## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n'


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def extras(message):
    parts = []
    if message.get('tools'):
        parts.append(TOOLS % '\n'.join(dump(t['function']) for t in message['tools']))
    if message.get('response_format', {'type': 'text'})['type'] != 'text':
        parts.append(FORMAT + dump(message['response_format']))
    return ''.join('\n\n' + p for p in parts)


def render_call(call):
    arguments = json.loads(call['function']['arguments'])
    lines = []
    for key, value in arguments.items():
        is_string = isinstance(value, str)
        lines.append(f'<{DSML}parameter name="{key}" string="{"true" if is_string else "false"}">'
                     f'{value if is_string else dump(value)}</{DSML}parameter>')
    return f'<{DSML}invoke name="{call["function"]["name"]}">\n' + '\n'.join(lines) + f'\n</{DSML}invoke>'


def render(index, messages, thinking):
    message = messages[index]
    role, content = message['role'], message.get('content') or ''
    last_user = max([i for i, m in enumerate(messages) if m['role'] in ('user', 'developer')], default=-1)
    if role == 'system':
        return content + extras(message)
    if role in ('user', 'developer'):
        if role == 'developer':
            content = extras(message) + "\n\n# The user's message is: " + content
        tag = '<think>' if thinking and index == last_user else '</think>'
        return f'<｜User｜>{content}<｜Assistant｜>{tag}'
    if role == 'tool':
        caller = index - 1
        while messages[caller]['role'] == 'tool':
            caller -= 1
        calls, place = len(messages[caller]['tool_calls']), index - caller
        text = '\n\n<function_results>' if place == 1 else ''
        text += f'\n<result>{content}</result>'
        if place == calls:
            tag = '<think>' if thinking and index >= last_user else '</think>'
            text += '\n</function_results>\n\n' + tag
        return text
    text = content
    if thinking and index > last_user:
        text = message.get('reasoning_content', '') + '</think>' + text
    if message.get('tool_calls'):
        calls = '\n'.join(render_call(c) for c in message['tool_calls'])
        text += f'\n\n<{DSML}function_calls>\n{calls}\n</{DSML}function_calls>'
    return text + '<｜end▁of▁sentence｜>'


def encode(request):
    messages = [dict(m) for m in request['messages']]
    # Results come in any order; the model sees them in the order of the calls.
    for i, m in enumerate(messages):
        ids = [c['id'] for c in m.get('tool_calls') or []]
        results = {r['tool_call_id']: r for r in messages[i + 1:i + 1 + len(ids)]}
        messages[i + 1:i + 1 + len(ids)] = [results[id] for id in ids]
    own = {k: request[k] for k in ('tools', 'response_format') if request.get(k)}
    if own:
        if messages[0]['role'] != 'system':
            messages.insert(0, {'role': 'system', 'content': ''})
        messages[0].update(own)
    kwargs = request.get('chat_template_kwargs', {})
    thinking = kwargs.get('thinking', False)
    if thinking and kwargs.get('drop_thinking', True):
        last = max([i for i, m in enumerate(messages) if m['role'] in ('user', 'developer')], default=-1)
        kept = []
        for i, m in enumerate(messages):
            if i < last and m['role'] == 'developer':
                continue
            if i < last and m['role'] == 'assistant':
                m = {k: v for k, v in m.items() if k != 'reasoning_content'}
            kept.append(m)
        messages = kept
    text = '<｜begin▁of▁sentence｜>' + ''.join(render(i, messages, thinking) for i in range(len(messages)))
    if request.get('continue_final_message'):
        text = text.removesuffix('<｜end▁of▁sentence｜>')
    return text


def words():
    return ''.join(rng.choice(['a', ' b', '中', '\n', '"', '\\', '<', 'é', '/', '\t', '😀']) for _ in range(rng.randrange(6)))


def value(depth=0):
    kind = rng.randrange(8 if depth < 2 else 6)
    if kind < 2:
        return words()
    if kind == 6:
        return [value(depth + 1) for _ in range(rng.randrange(3))]
    if kind == 7:
        return {words() + str(i): value(depth + 1) for i in range(rng.randrange(3))}
    return [None, True, rng.randrange(-5, 10**rng.randrange(1, 30)), rng.random() * 10**rng.randrange(-9, 20)][kind - 2]


def some_tools():
    return [{'type': 'function', 'function': {'name': f'f{i}', 'parameters': {'x': value()}, words(): value()}}
            for i in range(rng.randrange(1, 3))]


def conversation():
    messages = []
    if rng.randrange(2):
        messages.append({'role': 'system', 'content': words()})
    for _ in range(rng.randrange(1, 4)):
        if rng.randrange(4) == 0:
            m = {'role': 'developer', 'content': 'd' + words()}
            if rng.randrange(2):
                m['tools'] = some_tools()
            if rng.randrange(3) == 0:
                m['response_format'] = {'type': 'json_object', 'x': value()}
            messages.append(m)
        else:
            messages.append({'role': 'user', 'content': words()})
        for _ in range(rng.randrange(3)):
            ids = [f'c{i}' for i in range(rng.randrange(1, 4))]
            messages.append({'role': 'assistant', 'content': rng.choice([None, words()]), 'reasoning_content': words(),
                             'tool_calls': [{'id': i, 'type': 'function', 'function': {
                                 'name': 'f', 'arguments': json.dumps({f'k{j}': value() for j in range(rng.randrange(3))})}}
                                 for i in ids]})
            results = [{'role': 'tool', 'tool_call_id': i, 'content': words()} for i in ids]
            messages += rng.sample(results, len(results))
        messages.append({'role': 'assistant', 'content': words(), 'reasoning_content': words()})
        if rng.randrange(8) == 0:
            messages.append({'role': 'system', 'content': words()})
    request = {'messages': messages}
    while messages[-1]['role'] == 'system':
        messages.pop()
    if rng.randrange(2):
        messages.pop()  # a question, or results, are last
    else:
        request['continue_final_message'] = True
    if rng.randrange(2):
        request['tools'] = some_tools()
    if rng.randrange(4) == 0:
        request['response_format'] = {'type': rng.choice(['text', 'json_schema']), 'json_schema': value()}
    if rng.randrange(2):
        request['chat_template_kwargs'] = {'thinking': True}
        if rng.randrange(4) == 0:
            request['chat_template_kwargs']['drop_thinking'] = False
    return request


if __name__ == '__main__':
    with open('chat_golden.jsonl', 'w', encoding='utf-8', newline='\n') as out:
        for _ in range(200):
            request = conversation()
            prompt = encode(request).encode()
            out.write(json.dumps(request, ensure_ascii=bool(rng.randrange(2))) + '\n')
            out.write(hashlib.sha256(prompt).hexdigest() + '\n')
