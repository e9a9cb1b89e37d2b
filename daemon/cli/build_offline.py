"""Builds the package for pip from what pyproject.toml says: without setuptools, and so without a network (PEP 517, 660)."""
import base64
import configparser
import hashlib
import json
import os
import zipfile

PLUGINS = 'girder_worker_plugins'


def build_wheel(directory, config_settings=None, metadata_directory=None):
    files = {}
    for at, _, names in os.walk(project()['name']):
        for name in names:
            if not at.endswith('__pycache__'):
                with open(os.path.join(at, name), 'rb') as f:
                    files[os.path.join(at, name)] = f.read()
    return write(directory, files)


def build_editable(directory, config_settings=None, metadata_directory=None):
    return write(directory, {project()['name'] + '.pth': os.getcwd().encode()})


def project(section='project'):
    """A section of pyproject.toml, whose values are texts and lists of one line."""
    parser = configparser.ConfigParser(delimiters='=', interpolation=None)
    parser.optionxform = str
    parser.read('pyproject.toml', encoding='utf-8')
    return {key: json.loads(value) for key, value in parser[section].items()}


def write(directory, files):
    about = project()
    wheel = '%s-%s-py3-none-any.whl' % (about['name'], about['version'])
    info = '%s-%s.dist-info/' % (about['name'], about['version'])
    metadata = ['Metadata-Version: 2.1', 'Name: ' + about['name'], 'Version: ' + about['version']]
    metadata += ['Requires-Dist: ' + d for d in about.get('dependencies', [])]
    plugins = ['%s = %s' % p for p in project('project.entry-points.' + PLUGINS).items()]
    files[info + 'METADATA'] = '\n'.join(metadata + ['']).encode()
    files[info + 'WHEEL'] = b'Wheel-Version: 1.0\nGenerator: build_offline\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    files[info + 'entry_points.txt'] = '\n'.join(['[%s]' % PLUGINS] + plugins + ['']).encode()
    record = ''
    with zipfile.ZipFile(os.path.join(directory, wheel), 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in sorted(files.items()):
            z.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')
            record += '%s,sha256=%s,%d\n' % (name, digest, len(data))
        z.writestr(info + 'RECORD', record + info + 'RECORD,,\n')
    return wheel
