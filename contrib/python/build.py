"""Makes the wheels of this directory: build.py VERSION DIRECTORY. It needs Python 3.9 alone, and no network."""
import base64
import hashlib
import os
import re
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
# directory, distribution, what it needs, summary
WHEELS = (
    ('utils', 'girder_worker_utils', (), 'Transforms and argument types of Girder Worker tasks'),
    ('worker', 'girder_worker', ('girder_worker_utils',), 'Tasks for the girder-worker daemon, and calls to it'),
)
# The oldest time that a zip file can have: two builds of one source are the same file.
TIME = (1980, 1, 1, 0, 0, 0)


def pep440(version):
    """A version as Python's tools take it: what they would not comes after a +."""
    match = re.match(r'v?(\d+(?:\.\d+)*)(.*)$', version)
    if not match:
        return '0'
    number, rest = match.groups()
    rest = '.'.join(re.findall('[a-z0-9]+', rest.lower()))
    return number + ('+' + rest if rest else '')


def build(version, target, source, name, needs, summary):
    info = '%s-%s.dist-info' % (name, version)
    files = {}
    root = os.path.join(HERE, source)
    for directory, below, names in os.walk(os.path.join(root, name)):
        below[:] = sorted(d for d in below if d != '__pycache__')
        for file in sorted(names):
            if file.endswith('.py'):
                path = os.path.join(directory, file)
                with open(path, 'rb') as f:
                    files[os.path.relpath(path, root).replace(os.sep, '/')] = f.read()
    init = name + '/__init__.py'
    files[init] = files[init].replace(b"'0.0.0'  # written by build.py", b"'%s'" % version.encode())
    files[info + '/METADATA'] = ''.join(
        ['Metadata-Version: 2.1\nName: %s\nVersion: %s\nSummary: %s\nLicense: Apache-2.0\nRequires-Python: >=3.9\n' % (name, version, summary)]
        + ['Requires-Dist: %s == %s\n' % (n, version) for n in needs]).encode()
    files[info + '/WHEEL'] = b'Wheel-Version: 1.0\nGenerator: girder-worker\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    files[info + '/top_level.txt'] = name.encode() + b'\n'
    if name == 'girder_worker':
        files[info + '/entry_points.txt'] = b'[girder_worker_plugins]\ncore = girder_worker:GirderWorkerPlugin\n'
    record = ''.join('%s,sha256=%s,%d\n' % (
        path, base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode(), len(data))
        for path, data in sorted(files.items()))
    files[info + '/RECORD'] = (record + info + '/RECORD,,\n').encode()
    wheel = os.path.join(target, '%s-%s-py3-none-any.whl' % (name, version))
    with zipfile.ZipFile(wheel + '.part', 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for path, data in sorted(files.items(), key=lambda f: (f[0].startswith(info), f[0])):
            entry = zipfile.ZipInfo(path, TIME)
            entry.external_attr, entry.create_system, entry.compress_type = 0o100644 << 16, 3, zipfile.ZIP_DEFLATED
            z.writestr(entry, data)
    os.replace(wheel + '.part', wheel)
    return wheel


def main():
    if len(sys.argv) != 3:
        sys.exit('usage: build.py VERSION DIRECTORY')
    version = pep440(sys.argv[1])
    os.makedirs(sys.argv[2], exist_ok=True)
    for source, name, needs, summary in WHEELS:
        print(build(version, sys.argv[2], source, name, needs, summary))


if __name__ == '__main__':
    main()
