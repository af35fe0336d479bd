package org.lastmile.inference

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/** A table of a FlatBuffer, read without generated code. Source: flatbuffers.dev, "FlatBuffer internals". */
internal class FlatTable(private val bytes: ByteBuffer, private val position: Int) {
    private val fields = position - bytes.getInt(position)

    /** Where a field lies; 0 where it has its default. */
    private fun at(field: Int): Int {
        val slot = 4 + 2 * field
        if (slot >= bytes.getShort(fields)) return 0
        val offset = bytes.getShort(fields + slot).toInt() and 0xffff
        return if (offset == 0) 0 else position + offset
    }

    private fun target(at: Int) = at + bytes.getInt(at)

    fun byte(field: Int): Int = at(field).let { if (it == 0) 0 else bytes.get(it).toInt() and 0xff }

    fun long(field: Int): Long = at(field).let { if (it == 0) 0 else bytes.getLong(it) }

    fun table(field: Int): FlatTable? = at(field).let { if (it == 0) null else FlatTable(bytes, target(it)) }

    fun string(field: Int): String {
        val start = at(field).also { if (it == 0) return "" }.let(::target)
        val length = bytes.getInt(start)
        if (length < 0 || length > bytes.limit() - start - 4) throw IndexOutOfBoundsException("a string beyond the file's end")
        return String(ByteArray(length) { bytes.get(start + 4 + it) }, Charsets.UTF_8)
    }

    fun tables(field: Int): List<FlatTable> = vector(field) { FlatTable(bytes, target(it)) }

    fun ints(field: Int): List<Int> = vector(field) { bytes.getInt(it) }

    private fun <T> vector(field: Int, element: (Int) -> T): List<T> {
        val start = at(field).also { if (it == 0) return emptyList() }.let(::target)
        val length = bytes.getInt(start)
        if (length < 0 || length > (bytes.limit() - start - 4) / 4) throw IndexOutOfBoundsException("a vector beyond the file's end")
        return List(length) { element(start + 4 + 4 * it) }
    }

    companion object {
        /** What [read] makes of a file's root table; files of others are hostile, so that whatever is wrong in them is one error. */
        fun <T> of(file: File, identifier: String, read: (FlatTable, ByteBuffer) -> T): T =
            try {
                RandomAccessFile(file, "r").use { open ->
                    val bytes = open.channel.map(FileChannel.MapMode.READ_ONLY, 0, open.length()).order(ByteOrder.LITTLE_ENDIAN)
                    val found = String(ByteArray(4) { bytes.get(4 + it) }, Charsets.ISO_8859_1)
                    if (found != identifier) throw InferenceException("it is no $identifier file (it begins with '$found')")
                    read(FlatTable(bytes, bytes.getInt(0)), bytes)
                }
            } catch (error: IndexOutOfBoundsException) {
                throw InferenceException("it is cut short or broken (${error.message})", error)
            }
    }
}

/** What a .tflite file says of itself. Source: tensorflow/lite/schema/schema.fbs. */
internal object TfliteFile {
    /** How many operators the first graph has. */
    fun operators(file: File): Int = FlatTable.of(file, "TFL3") { model, _ -> model.tables(2).first().tables(3).size }
}

/**
 * What a .pte file says of its method "forward": the Java API tells neither shapes nor types.
 *
 * Source: executorch/schema/program.fbs, scalar_type.fbs and extended_header.h.
 */
internal class PteFile(val inputs: List<TensorInfo>, val outputs: List<TensorInfo>, val backends: Set<String>) {
    companion object {
        private const val TENSOR = 5 // in the union KernelTypes

        fun read(file: File): PteFile =
            FlatTable.of(file, "ET12") { program, bytes ->
                checkSegments(program, bytes)
                val plan =
                    program.tables(1).find { it.string(0) == "forward" }
                        ?: throw InferenceException("it has no method 'forward'")
                val values = plan.tables(2)
                PteFile(
                    inputs = plan.ints(3).mapIndexed { i, value -> described("input_$i", values[value]) },
                    outputs = plan.ints(4).mapIndexed { i, value -> described("output_$i", values[value]) },
                    backends = plan.tables(7).map { it.string(0) }.toSet()
                )
            }

        /** Weights lie behind the program, and ExecuTorch reads them unasked: beyond the end of a file the process would die. */
        private fun checkSegments(program: FlatTable, bytes: ByteBuffer) {
            val segments = program.tables(4)
            if (segments.isEmpty()) return
            val magic = String(ByteArray(4) { bytes.get(8 + it) }, Charsets.ISO_8859_1)
            if (magic != "eh00") throw InferenceException("it has segments, and no header that says where")
            val begin = bytes.getLong(24).let { if (it < 0) Long.MAX_VALUE else it } // the file has them unsigned
            val room = bytes.limit() - begin
            for (segment in segments) {
                val (offset, size) = segment.long(0) to segment.long(1)
                if (offset !in 0..room || size !in 0..room - offset) throw InferenceException("it is cut short: a segment of $size bytes goes beyond its end")
            }
        }

        /** The format has no names and no scales, so a quantized one is a plain int8 tensor here. */
        private fun described(name: String, value: FlatTable): TensorInfo {
            val tensor = value.table(1)
            if (value.byte(0) != TENSOR || tensor == null) throw InferenceException("$name is no tensor")
            val dtype =
                when (val type = tensor.byte(0)) {
                    0 -> DType.UINT8
                    1 -> DType.INT8
                    3 -> DType.INT32
                    4 -> DType.INT64
                    6 -> DType.FLOAT32
                    else -> throw InferenceException("$name has scalar type $type; known: ${DType.entries.joinToString { it.label }}")
                }
            return TensorInfo(name, tensor.ints(2), dtype)
        }
    }
}
