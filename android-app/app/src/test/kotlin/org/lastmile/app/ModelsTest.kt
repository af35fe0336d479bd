package org.lastmile.app

import android.os.Bundle
import android.view.ViewGroup
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lastmile.inference.Artifact
import org.lastmile.inference.Classifier
import org.lastmile.inference.ExecuTorchEngine
import org.lastmile.inference.InferenceException
import org.lastmile.inference.LiteRtEngine
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf

/** Which models the app has, and what it makes sure of before one is loaded. */
class ModelsTest : OnScreen() {
    private val context = RuntimeEnvironment.getApplication()

    /** A copy of a model inside the APK, as adb would push it. */
    private fun pushed(
        name: String,
        changed: (ByteArray) -> Unit = {}
    ): Artifact {
        val inside = Models.all(context).first()
        val folder = File(context.getExternalFilesDir("models"), name)
        inside.file.parentFile!!.copyRecursively(folder, overwrite = true)
        val artifact = Artifact.read(folder)
        artifact.file.writeBytes(artifact.file.readBytes().also(changed))
        return artifact
    }

    @Test
    fun aPushedModelIsThereAndRuns() {
        val artifact = pushed("one")
        assertEquals(artifact, Models.all(context).last())
        Classifier(artifact).use { assertTrue(it.loadNs > 0) }
    }

    @Test
    fun aModelThatIsNotItsManifestsIsRefusedOnEveryPage() {
        val artifact = pushed("changed") { it[it.size / 2] = (it[it.size / 2] + 1).toByte() }
        val says = "${artifact.file} is not the file of its artifact.json (sha256 differs); bring both anew"
        assertEquals(says, assertThrows(InferenceException::class.java) { Classifier(artifact) }.message)
        pushedSplit()
        val activity = start().get()
        val home = activity.findViewById<ViewGroup>(R.id.page)
        for (page in listOf(BenchmarkPage(activity, home, Bundle()), AccuracyPage(activity, home, Bundle()))) {
            assertEquals(says, assertThrows(InferenceException::class.java) { page.measured(artifact) {} }.message)
        }
    }

    @Test
    fun anAppThatWasInstalledAnewUnpacksItsOwnModels() {
        val before = Models.all(context).first().file
        before.writeText("of the app before")
        shadowOf(context.packageManager).getInternalMutablePackageInfo(context.packageName).lastUpdateTime += 1
        val after = Models.all(context).first()
        assertEquals(after.file, after.checked())
        assertFalse(before.exists())
        assertEquals(1, context.noBackupFilesDir.listFiles().orEmpty().size)
    }

    @Test
    fun modelsWhoseRuntimeIsNotHereComeLast() {
        val other = pushed("a")
        File(other.file.parentFile, "artifact.json").let { it.writeText(it.readText().replace(other.file.name, "model.onnx")) }
        val runs = pushed("b")
        assertEquals(listOf(runs.file, File(other.file.parentFile, "model.onnx")), Models.all(context).takeLast(2).map { it.file })
    }

    @Test
    fun aFileWithATypeThatIsNotFedIsLetGo() {
        val inside = Models.all(context).first { it.recipe == "int8" && it.file.name.endsWith(".tflite") }
        val file = File(context.filesDir, "broken.tflite")
        file.writeBytes(inside.file.readBytes().also(::ofInt16))
        val error = assertThrows(InferenceException::class.java) { LiteRtEngine.load(file) }
        assertTrue(error.message, "INT16; known: " in error.message!!)
        assertFalse("it is mapped still", file.path in File("/proc/self/maps").readText())
    }

    @Test
    fun aPteFileThatIsCutShortIsRefusedBeforeExecuTorchSeesIt() {
        val inside = Models.all(context).first { it.file.name.endsWith(".pte") }
        val whole = inside.file.readBytes()
        val file = File(context.filesDir, "cut.pte")
        for (length in listOf(whole.size - 64, whole.size * 3 / 4, whole.size / 2, 64)) {
            file.writeBytes(whole.copyOf(length))
            val error = assertThrows("$length bytes", InferenceException::class.java) { ExecuTorchEngine.load(file) }
            assertTrue(error.message, "it is cut short" in error.message!!)
        }
    }

    /** Makes the input int16, and takes the operators away, which would refuse it. Source: tensorflow/lite/schema/schema.fbs. */
    private fun ofInt16(content: ByteArray) {
        val bytes = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN)

        fun target(at: Int) = at + bytes.getInt(at)

        fun field(
            table: Int,
            number: Int
        ) = table + bytes.getShort(table - bytes.getInt(table) + 4 + 2 * number)

        val graph = target(target(field(target(0), 2)) + 4)
        val input = bytes.getInt(target(field(graph, 1)) + 4)
        val tensor = target(target(field(graph, 0)) + 4 + 4 * input)
        assertEquals(9, content[field(tensor, 1)].toInt())
        content[field(tensor, 1)] = 7
        bytes.putInt(target(field(graph, 3)), 0)
    }
}
