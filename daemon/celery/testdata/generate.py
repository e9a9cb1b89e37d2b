#!/usr/bin/python3
"""Writes task messages of the installed Celery to standard output.

Needs Debian's python3-celery and python3-jsonpickle. The output is kept as
celery-VERSION.json: messages by the name of the case, as they would be on the wire.
"""
import json
import sys
import types

import celery
import jsonpickle
from celery import Celery, chain, chord, group
from kombu.serialization import register

register('girder_io', jsonpickle.encode, jsonpickle.decode,
         content_type='application/json', content_encoding='utf-8')


class Volume:
    pass


# A class of a module that the reader has not.
lab = types.ModuleType('lab')
sys.modules['lab'] = lab
Volume.__module__ = 'lab'
lab.Volume = Volume
volume = Volume()
volume.path = '/data'

messages = {}
app = None


def use(**conf):
    global app
    backend = conf.pop('backend', 'rpc://')
    app = Celery('lab', broker='memory://', backend=backend)
    app.conf.update(conf)


def s(name, *args, **kwargs):
    return app.signature(name, args=args, kwargs=kwargs)


def case(name, signature, **options):
    signature.apply_async(**options)
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue('celery')
        found = []
        while True:
            try:
                m = queue.get_nowait()
            except queue.Empty:
                break
            m.ack()
            properties = {k: m.properties[k] for k in sorted(m.properties)
                          if k in ('correlation_id', 'reply_to', 'delivery_mode', 'priority', 'expiration')}
            properties.update(content_type=m.content_type, content_encoding=m.content_encoding, headers=m.headers)
            body = m.body if isinstance(m.body, str) else m.body.decode()
            found.append({'exchange_name': '', 'routing_keys': ['celery'], 'properties': properties, 'body': body})
        messages[name] = found[0]


use()
case('plain', s('t.a', 1, 'two', k=[2.5, None, True]))
case('links', s('t.a', 1), link=s('t.cb', 5), link_error=s('t.eb'))
case('chain', chain(s('t.a', 1), s('t.b', 2).set(queue='other', countdown=10), s('t.c', 3).set(immutable=True)))
case('chain, then a group', chain(s('t.a', 1), group(s('t.b', 2), s('t.c'))))
case('link to a chain and a group', s('t.a', 1), link=[chain(s('t.x'), s('t.y')), group(s('t.g'), s('t.h'))])
case('link to two', s('t.a', 1), link=[s('t.x'), s('t.y')])
case('options', s('t.a', 1), expires=60, countdown=5, time_limit=30, soft_time_limit=20.5, priority=7, shadow='shown',
     ignore_result=True)
case('group', group(s('t.a', 1), s('t.b')))

use(backend='cache+memory://')
case('chain, then a chord', chain(s('t.a', 1), group(s('t.b', 2), s('t.c')), s('t.d')))
case('chord', chord([s('t.b', 2), s('t.c')], s('t.d')))

use(task_protocol=1)
case('protocol 1', s('t.a', 1, k='v'), link=s('t.cb'), countdown=3, expires=9, time_limit=4)

use(task_serializer='girder_io')
case('pickled chain', chain(s('t.a', volume, volumes=[volume]),
                            s('t.b', volume, volumes=[volume], pair=(1, 2)).set(immutable=True),
                            s('t.c', 3)))
case('pickled chain, then a group', chain(s('t.a', volume), group(s('t.b'), s('t.c', volume))))
case('pickled links', s('t.a', volume), link=[chain(s('t.x'), s('t.y', volume)), s('t.z')])

json.dump(messages, sys.stdout, indent=1)
sys.stderr.write('Celery %s, jsonpickle %s\n' % (celery.__version__, jsonpickle.__version__))
