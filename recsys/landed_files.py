"""Looking through a landed file inside the JVM, without bringing its bytes to Python."""

from typing import Any, Final

from py4j.protocol import Py4JJavaError

from recsys.store.files import Files

_AT_ONCE: Final = 1024 * 1024  # bytes


class LandedFiles(Files):
    """Files, and what a reader of one would have to hold."""

    def has_longer_line(self, path: str, limit: int, *, unpack: bool = False) -> bool:
        """Whether a line has more than ``limit`` bytes; found before a reader would have to hold it in memory.

        Costs one reading of the file, about 0.3 GB a second, and some megabytes of memory whatever its size.
        """
        java = self._jvm.java
        patterns = java.util.regex.Pattern
        line_feed, up_to_last = patterns.compile("\n"), patterns.compile("(?s).*\n")
        latin1 = java.nio.charset.StandardCharsets.ISO_8859_1  # a character a byte
        with self._stream(path, unpack=unpack) as stream:
            channel, buffer = java.nio.channels.Channels.newChannel(stream), java.nio.ByteBuffer.allocate(_AT_ONCE)
            begun = 0  # bytes of the line that is not at its end yet
            while (read := self._read(channel, buffer)) > 0:
                buffer.flip()
                text = latin1.decode(buffer)
                buffer.clear()
                first = line_feed.matcher(text)
                if not first.find():
                    begun += read
                else:
                    if begun + first.start() > limit:
                        return True
                    last = up_to_last.matcher(text)
                    last.lookingAt()
                    begun = read - last.end()
                if begun > limit:
                    return True
            return False

    def parquet_size(self, path: str) -> int:
        """Bytes of all columns of a Parquet file before compression, from its footer."""
        hadoop, parquet = self._jvm.org.apache.hadoop.fs, self._jvm.org.apache.parquet.hadoop
        try:
            file = parquet.util.HadoopInputFile.fromPath(hadoop.Path(path), self._conf)
            reader = parquet.ParquetFileReader.open(file)
            try:
                return sum(int(group.getTotalByteSize()) for group in reader.getRowGroups())
            finally:
                reader.close()
        except Py4JJavaError as err:
            raise OSError(f"{path}: {err.java_exception.getMessage()}") from err

    def _read(self, channel: Any, buffer: Any) -> int:
        """Fill the buffer, or as much of it as there is left to read."""
        return int(self._jvm.org.apache.commons.io.IOUtils.read(channel, buffer))
