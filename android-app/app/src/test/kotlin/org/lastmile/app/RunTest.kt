package org.lastmile.app

import android.content.Intent
import android.view.ViewGroup
import android.widget.TextView
import java.io.File
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** The activity that scripts start, on requests that Python wrote; Python then looks at what came back. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class RunTest {
    private val place = System.getProperty("lastmile.place")!!
    private val context = RuntimeEnvironment.getApplication()

    private fun run(id: String): JSONObject {
        Run.named(context, id, place)!!.work()
        return JSONObject(File(context.getExternalFilesDir(null), "runs/$id/result.json").readText())
    }

    @Test
    fun whatIsNoNameOfARunIsRefusedAndReadsNothing() {
        for (name in listOf("../../etc", "0000FAC75", "short", "a b\n\$(x);'\"", "f".repeat(65), null)) {
            val activity = Robolectric.buildActivity(RunActivity::class.java, Intent().putExtra("run", name)).create().get()
            val content = activity.findViewById<ViewGroup>(android.R.id.content)
            assertEquals(activity.getString(R.string.run_refused), (content.getChildAt(0) as TextView).text)
        }
        assertFalse(File(context.getExternalFilesDir(null), "runs").exists())
    }

    /** Every request below the phone's folder, its answer and files copied beside it. */
    @Test
    fun everyRequestIsAnswered() {
        val requests = File("$place/runs").listFiles().orEmpty().sortedBy { it.name }
        assertTrue("no requests", requests.isNotEmpty())
        for (request in requests) {
            val result = run(request.name)
            assertEquals(1, result.getInt("schema"))
            File(context.getExternalFilesDir(null), "runs/${request.name}").copyRecursively(File(request, "answer"), overwrite = true)
        }
    }
}
