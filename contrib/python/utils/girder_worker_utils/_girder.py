"""The little of girder_client that transforms need, for interpreters that do not have it."""
import json
import mimetypes
import os
import urllib.error
import urllib.request
from urllib.parse import urlencode

_PIECE = 1 << 20
_CHUNK = 64 << 20
_PAGE = 50


class HttpError(Exception):
    """An answer of Girder that is not 2xx."""

    def __init__(self, status, text, url, method):
        super().__init__('HTTP error %s: %s %s\nResponse text: %s' % (status, method, url, text))
        self.status, self.responseText, self.url, self.method = status, text, url, method


class _SameServer(urllib.request.HTTPRedirectHandler):
    """A token is for one server: it does not follow a redirection to another."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        to = super().redirect_request(req, fp, code, msg, headers, newurl)
        if to is not None and to.host != req.host:
            to.remove_header('Girder-token')
        return to


class GirderClient:
    """A Girder server. token is one of its tokens."""

    def __init__(self, apiUrl=None, **kwargs):
        self.urlBase = (apiUrl or '').rstrip('/') + '/'
        self.token = ''

    def _pickled_(self):
        """As jsonpickle writes girder_client.GirderClient."""
        return {'py/object': 'girder_client.GirderClient', 'urlBase': self.urlBase, 'token': self.token}

    def authenticate(self, apiKey=None, **kwargs):
        self.token = self.post('api_key/token', parameters={'key': apiKey})['authToken']['token']

    def _open(self, method, path, parameters=None, data=None, headers=None):
        url = self.urlBase + path.lstrip('/')
        if parameters:
            url += ('&' if '?' in url else '?') + urlencode({
                k: json.dumps(v) if isinstance(v, (dict, list, bool)) else v for k, v in parameters.items() if v is not None})
        if data is None and method in ('POST', 'PUT'):
            data = b''
        elif hasattr(data, 'read'):
            headers = {'Content-Length': str(os.fstat(data.fileno()).st_size), **(headers or {})}
        request = urllib.request.Request(url, data=data, method=method, headers={
            'Girder-Token': self.token or '', 'Content-Type': 'application/octet-stream', **(headers or {})})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _SameServer)
        try:
            return opener.open(request, timeout=60)
        except urllib.error.HTTPError as e:
            with e:
                raise HttpError(e.code, e.read(2000).decode('utf-8', 'replace'), url.split('?')[0], method) from None

    def sendRestRequest(self, method, path, parameters=None, data=None, headers=None, **kwargs):
        with self._open(method, path, parameters, data, headers) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def get(self, path, parameters=None, **kwargs):
        return self.sendRestRequest('GET', path, parameters)

    def post(self, path, parameters=None, data=None, **kwargs):
        return self.sendRestRequest('POST', path, parameters, data)

    def put(self, path, parameters=None, data=None, **kwargs):
        return self.sendRestRequest('PUT', path, parameters, data)

    def delete(self, path, parameters=None, **kwargs):
        return self.sendRestRequest('DELETE', path, parameters)

    def _pages(self, path, **parameters):
        offset = 0
        while True:
            page = self.get(path, parameters={**parameters, 'limit': _PAGE, 'offset': offset})
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def getFile(self, file_id):
        return self.get('file/%s' % file_id)

    def getItem(self, item_id):
        return self.get('item/%s' % item_id)

    def getFolder(self, folder_id):
        return self.get('folder/%s' % folder_id)

    def listFile(self, item_id):
        return self._pages('item/%s/files' % item_id)

    def downloadFile(self, file_id, path, created=None):
        """Downloads a file. It fails when it is not as long as Girder says."""
        size = self.getFile(file_id)['size']
        got = 0
        with self._open('GET', 'file/%s/download' % file_id) as answer, open(path, 'wb') as out:
            while True:
                piece = answer.read(_PIECE)
                if not piece:
                    break
                out.write(piece)
                got += len(piece)
        if got != size:
            raise OSError('file %s: got %d bytes of %d' % (file_id, got, size))

    def downloadItem(self, item_id, dest, name=None):
        """Downloads an item: a file where it has one that is called like it, else a directory."""
        name = name or self.getItem(item_id)['name']
        files = list(self.listFile(item_id))
        to = os.path.join(dest, _clean(name))
        if len(files) == 1 and files[0]['name'] == name:
            self.downloadFile(files[0]['_id'], to)
            return
        os.makedirs(to, exist_ok=True)
        for f in files:
            self.downloadFile(f['_id'], os.path.join(to, _clean(f['name'])))

    def _chunks(self, upload, file, size):
        offset = 0
        while '_id' in upload and upload.get('_modelType') != 'file' and offset < size:
            piece = file.read(min(_CHUNK, size - offset))
            if not piece:
                raise OSError('%s became shorter while it was uploaded' % file.name)
            upload = self.post('file/chunk', parameters={'offset': offset, 'uploadId': upload['_id']}, data=piece)
            offset += len(piece)
        return upload

    def uploadFileToItem(self, itemId, filepath, reference=None, mimeType=None, filename=None, **kwargs):
        name, size = filename or os.path.basename(filepath), os.path.getsize(filepath)
        known = next((f for f in self.listFile(itemId) if f['name'] == name), None)
        with open(filepath, 'rb') as f:
            if known is not None and known['size'] == size:
                return known
            if known is not None:
                upload = self.put('file/%s/contents' % known['_id'], parameters={'size': size, 'reference': reference})
            else:
                upload = self.post('file', parameters={
                    'parentType': 'item', 'parentId': itemId, 'name': name, 'size': size, 'reference': reference,
                    'mimeType': mimeType or mimetypes.guess_type(filepath)[0]})
            return self._chunks(upload, f, size)

    def uploadFileToFolder(self, folderId, filepath, reference=None, mimeType=None, filename=None, **kwargs):
        size = os.path.getsize(filepath)
        with open(filepath, 'rb') as f:
            upload = self.post('file', parameters={
                'parentType': 'folder', 'parentId': folderId, 'name': filename or os.path.basename(filepath), 'size': size,
                'reference': reference, 'mimeType': mimeType or mimetypes.guess_type(filepath)[0]})
            return self._chunks(upload, f, size)

    def createFolder(self, parentId, name, description='', parentType='folder', reuseExisting=False, **kwargs):
        return self.post('folder', parameters={'parentId': parentId, 'parentType': parentType, 'name': name,
                                               'description': description, 'reuseExisting': reuseExisting})

    def addMetadataToItem(self, itemId, metadata):
        return self.sendRestRequest('PUT', 'item/%s/metadata' % itemId, data=json.dumps(metadata).encode(),
                                    headers={'Content-Type': 'application/json'})


def _clean(name):
    """One element of a path, whatever the server says."""
    name = name.replace('/', '_').replace('\0', '_')
    return '_' + name if name in ('', '.', '..') else name


def default_client():
    """The server that GIRDER_API_URL names, with the token of GIRDER_TOKEN or the key of GIRDER_API_KEY; None without."""
    url = os.environ.get('GIRDER_API_URL')
    if not url:
        return None
    client = GirderClient(apiUrl=url)
    client.token = os.environ.get('GIRDER_TOKEN', '')
    if not client.token and os.environ.get('GIRDER_API_KEY'):
        client.authenticate(apiKey=os.environ['GIRDER_API_KEY'])
    return client
